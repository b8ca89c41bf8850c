"""``edgecmd robustness``: strategies under Byzantine clients, and a federation that clients drop out of."""
