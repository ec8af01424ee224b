"""One self-contained HTML file of a report's content; ``render`` makes it.

The tokens of a document come as ``[[start, end, calibrated, raw], ...]``, or, shorter, as one flat
list of integers ``[gap, length, calibrated, raw, gap, length, ...]``: ``gap`` is the number of code
points since the end of the token before (the text's start for the first; it may be negative where
tokens overlap), ``length`` the token's own. ``calibrated`` is −255..255, ``raw`` 0..255 or null.
The page reads both forms.
"""
