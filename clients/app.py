"""The Flower ClientApp: ``clients.app:app``.

It runs unchanged in one process, in local worker processes, in Flower's simulation and on a
SuperNode. A reply holds the student's weights, the number of pairs, the mean loss and the client's
index; no label, no image and no teacher feature leaves.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message  # noqa: E402 - the environment must be set before
from flwr.clientapp import ClientApp  # noqa: E402

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local distillation; heavy imports wait until the first message."""
    from clients.work import answer_train

    return answer_train(message, context)
