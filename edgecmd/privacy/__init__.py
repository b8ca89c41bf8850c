"""Differential privacy: what a step releases, how much it costs, and who keeps count."""
