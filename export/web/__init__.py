"""The student in a browser: one page that runs it where it is opened, without requests to any server."""
