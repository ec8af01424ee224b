"""The sample collection pydocs: find the standard-library function that does what I want."""
