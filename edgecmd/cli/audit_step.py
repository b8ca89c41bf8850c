"""``edgecmd audit step``: level L1, one private step of the real code."""
