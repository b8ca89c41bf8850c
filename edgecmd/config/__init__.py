"""Settings of a run as a whole: read at the edge, and turned into objects there."""
