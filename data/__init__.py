"""Records, files, collections and models: what the other packages share."""
