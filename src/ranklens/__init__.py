"""ranklens: rerank documents by the attention of a language model, and evaluate the result."""

__version__ = "0.1.0"
