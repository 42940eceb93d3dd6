"""The writing side of xtar: from a directory to a nested `.xtar` archive."""
