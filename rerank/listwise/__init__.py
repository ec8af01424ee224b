"""Listwise reranking by a decoder that orders numbered passages, window by window."""
