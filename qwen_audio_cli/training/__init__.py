"""Training: from recordings and what is to be written of them to weights."""
