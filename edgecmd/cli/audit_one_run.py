"""``edgecmd audit one-run``: level L2, one training run with canaries."""
