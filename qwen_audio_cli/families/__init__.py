"""Model families: each knows one architecture, its prompt dialect and how its answers are read."""
