"""Measurements against other software, run by hand in a checkout."""
