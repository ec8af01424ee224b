"""Relevance labels by language models."""
