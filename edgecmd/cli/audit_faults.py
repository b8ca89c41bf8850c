"""``edgecmd audit faults``: planted faults, and the level of the ladder that catches each."""
