"""The Flower ClientApp: ``clients.app:app``.

It runs unchanged in one process, in local worker processes, in Flower's simulation and on a
SuperNode. A reply holds the student's weights, the number of pairs, the mean loss and the client's
index, under privacy the weights and the index alone; no label, no image, no teacher feature leaves.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local distillation; heavy imports wait until the first message."""
    from clients.work import answer_train

    return answer_train(message, context)


@app.query("index")
def index(message: Message, context: Context) -> Message:
    """This client's index: cohorts are drawn over indices, because node ids differ from run to run."""
    client = int(context.node_config.get("partition-id", 0))
    return Message(RecordDict({"metrics": MetricRecord({"client": client})}), reply_to=message)
