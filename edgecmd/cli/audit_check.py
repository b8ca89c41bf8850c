"""``edgecmd audit check``: level L0, what can be known without training."""
