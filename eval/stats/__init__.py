"""Statistics over per-query scores: paired tests, corrections for many of them, effect sizes."""
