"""Why two tools give different numbers for one run: recomputed, with one rule changed at a time."""
