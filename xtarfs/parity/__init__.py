"""The parity file and the spares of a set: writing them, and healing what is read."""
