"""Pairs on the disk: files read by rows, stores, what is kept beside them, and the way in."""
