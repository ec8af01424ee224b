"""The HTML report: what is gathered (``content``), and the page made of it (``page``)."""
