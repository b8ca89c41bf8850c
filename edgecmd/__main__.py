"""``python -m edgecmd``."""

from edgecmd.cli import main

if __name__ == "__main__":
    main()
