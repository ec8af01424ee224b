"""A reranker behind HTTP: requests queued, batched, limited, counted; extra ``server``."""
