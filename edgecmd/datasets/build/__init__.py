"""Rebuilding the built-in set `emoji` from the packages that its images come from."""
