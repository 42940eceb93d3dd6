"""Comparing: an archive with its own checksums (verify), with a directory or with another archive (diff)."""
