"""Rerankers: the attention engine and the methods built on it."""
