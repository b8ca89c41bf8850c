"""Modality distance and target error: what the theory speaks about, measured."""
