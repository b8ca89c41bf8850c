"""Every setting of a run, and the one reader and writer of them."""
