"""Agreement of a judge's labels with gold labels: labels, rankings, significance, circularity."""
