"""The single checks of a bundle; `export.trust` puts them in order."""
