"""Several devices for one run: a process for each, one queue of sources before them, one output."""
