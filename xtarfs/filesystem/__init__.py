"""What an archive, or a folder of archives, looks like as a file system; no FUSE binding in it."""
