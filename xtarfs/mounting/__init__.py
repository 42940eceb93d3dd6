"""The life of a mount, and libfuse."""
