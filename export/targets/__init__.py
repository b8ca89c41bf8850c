"""Which device a file can run on: the memory that it needs, and what devices have."""
