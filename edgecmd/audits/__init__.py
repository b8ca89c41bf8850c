"""Audits: what a run and a shipped model really leak, held against what was claimed of them."""
