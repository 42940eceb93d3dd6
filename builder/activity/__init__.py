"""When the files of a tree changed, in groups, and pictures of it."""
