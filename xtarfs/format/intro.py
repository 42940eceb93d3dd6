"""The text that every archive begins with: how to restore it without this program."""

TEXT = b"placeholder\n"
