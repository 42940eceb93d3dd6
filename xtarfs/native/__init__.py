"""The compiled request loop: speaks to /dev/fuse by itself, reads archives by itself, asks Python for all else."""
