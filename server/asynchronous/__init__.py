"""Rounds that do not wait for the slowest client, and simulated speeds to try them with."""
