"""Bytes to records and back; opens no file. Builder and reader use the same functions."""
