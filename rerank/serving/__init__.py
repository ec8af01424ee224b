"""A reranker behind HTTP: requests queued, batched, limited, counted; extra ``server``."""

from ranklens.data.extras import require

require("server", "fastapi", "prometheus_client", "uvicorn")
