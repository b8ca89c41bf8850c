"""Audits: what a run and a shipped model really leak, compared with what was claimed."""
