"""UDCG: what a list of passages is worth to the language model that reads it."""
