"""A user's own files, read into pairs."""
