"""The sets that edgecmd knows by name."""
