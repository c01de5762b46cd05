"""Building mini's checkpoint, before it is trained."""
