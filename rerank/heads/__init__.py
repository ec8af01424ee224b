"""Finding out which heads of a model tell relevant documents from others."""
