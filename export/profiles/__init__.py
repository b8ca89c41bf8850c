"""The ways to store and compute a student."""
