"""The single checks of a bundle; `export.trust.checks` puts them in order."""
