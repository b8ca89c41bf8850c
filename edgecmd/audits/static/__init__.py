"""Level L0: what can be known without training."""
