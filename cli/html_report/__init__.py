"""The report of ``ranklens report``: what is gathered, and the page that shows it."""
