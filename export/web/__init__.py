"""The student in a browser: one page that runs it where it is opened, and asks nothing of any server."""
