"""``edgecmd audit many-runs``: level L3, many runs on a worst-case pair, and the headline table."""
