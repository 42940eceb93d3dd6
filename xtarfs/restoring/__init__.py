"""From records to files on disk: extract, and `xtar struct apply`."""
