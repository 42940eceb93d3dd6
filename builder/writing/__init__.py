"""From a source file to a member, and the archive under construction."""
