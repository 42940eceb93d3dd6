"""From an archive, or several, to records by path and verified bytes."""
