"""The frozen teacher: what it is made of, what it is shown, and its features kept for the next time."""
