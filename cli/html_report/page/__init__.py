"""One self-contained HTML file of a report's content; ``render`` makes it.

What stands still is written here: the summary (``words``) and the tables (``tables``), so that it
can be read without scripts. What one clicks is drawn by ``scripts/`` from the content, which goes
into the page as one JSON value.
"""
