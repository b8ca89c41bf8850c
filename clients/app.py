"""The Flower ClientApp: ``clients.app:app``.

It runs unchanged in one process, in local worker processes, in Flower's simulation and on a
SuperNode. A reply holds the student's weights, the number of pairs, the mean loss and the client's
index, under privacy the weights and the index alone; no label, no image, no teacher feature leaves, and
a client that declines says so by a word of a fixed table (`edgecmd.privacy.refusals`).
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.identity import index_of_node

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local distillation; heavy imports wait until the first message."""
    from clients.work import answer_train

    return answer_train(message, context)


@app.query("index")
def index(message: Message, context: Context) -> Message:
    """This client's index, and whether it has pairs of its own; heavy imports are not needed.

    Cohorts are drawn over indices, because node ids differ from run to run.
    """
    own = bool(context.node_config.get("data-dir"))
    told = context.node_config.get("partition-id", index_of_node(context.node_id) if own else 0)
    metrics = MetricRecord({"client": int(told), "own-pairs": int(own)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
