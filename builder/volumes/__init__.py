"""Sets of volumes: what goes where, one volume, files cut into parts, the catalogue of all."""
