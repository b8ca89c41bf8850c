"""One private step: sampling, clipped sums, noise."""
