"""Flower server: the rounds, screening, checkpoints and the in-process grid."""
