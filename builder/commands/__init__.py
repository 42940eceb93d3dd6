"""Command lines of the writing half."""
