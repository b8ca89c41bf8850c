"""What edgecmd knows of each data set: one row each, and where their files lie."""
