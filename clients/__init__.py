"""Flower client: decode, distil, encode. What it knows of distillation it imports from `edgecmd`."""
