"""Command lines of the reading half, and what `list` and `info` print."""
