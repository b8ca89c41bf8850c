"""Planted faults, which the audits must find."""
