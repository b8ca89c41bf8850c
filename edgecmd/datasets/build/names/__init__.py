"""Making the shipped names of emoji again."""
