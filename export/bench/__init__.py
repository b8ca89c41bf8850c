"""One student in every engine, measured in one run."""
