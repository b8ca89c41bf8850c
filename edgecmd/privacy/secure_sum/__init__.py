"""A sum that only its total leaves: masks that cancel, shares for drop-outs, and noise inside of it."""
