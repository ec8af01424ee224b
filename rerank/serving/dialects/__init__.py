"""The HTTP dialects of rerankers: Cohere v1 and v2, Jina, vLLM and TEI; ``routes`` binds paths."""
