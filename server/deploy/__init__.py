"""A federation between machines: its description, a kit for each of them, and a trial on this one."""
