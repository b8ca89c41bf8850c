"""Level L2: one training run with canaries."""
