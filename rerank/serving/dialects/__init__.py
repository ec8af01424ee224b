"""The request and answer shapes of others that the server speaks: Cohere, Jina, vLLM, TEI."""
