"""Training data: made of freely licensed packages, the same from the same seed."""
