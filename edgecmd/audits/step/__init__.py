"""Level L1: private steps of the real code."""
