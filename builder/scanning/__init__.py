"""What the source holds, and what of it the copy before knows already."""
