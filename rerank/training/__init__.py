"""Training a decoder's attention to point at the right documents."""
