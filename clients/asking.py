"""In the place of Flower's ``flwr-clientapp``: asks the site's node program to answer a message, and ends.

It is run by its path without any other module, so that it starts in some hundredths of a second.
"""

import json
import os
import socket
import sys

PROGRAM = "flwr-clientapp"
VARIABLE = "EDGECMD_NODE_MESSAGES"
PATIENCE_S = 60.0


def main() -> None:
    """Pass the arguments on; exit 1 where nobody takes them, so that nothing else answers in their place."""
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(PATIENCE_S)
            one.connect(os.environ[VARIABLE])
            one.sendall(json.dumps(sys.argv[1:]).encode() + b"\n")
            taken = one.recv(16) == b"taken\n"
    except (OSError, KeyError):
        taken = False
    if not taken:
        sys.exit("edgecmd-node does not answer. Start the site again: start.sh in its kit.")


if __name__ == "__main__":
    main()
