"""Enlarging people's pictures: in tiles, from files to files, and films."""
