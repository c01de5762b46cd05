"""How fast a model is on a machine, and how fast it could be: what `qwa bench` measures."""
