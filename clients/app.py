"""The Flower ClientApp: ``clients.app:app``.

It runs unchanged in one process, in local worker processes, in Flower's simulation and on a
SuperNode. A reply holds the student's weights, the number of pairs, the mean loss and the client's
index, under privacy the weights and the index alone; no label, no image, no teacher feature leaves, and
a client that declines says so by a word of a fixed table (`edgecmd.privacy.refusals`).
"""

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.identity import QUERIES, TELL, index_of_node
from clients.packing import packed_mod

if TYPE_CHECKING:
    from edgecmd.run import Run


def make_app(run: "Run | None" = None, *, local: bool = False) -> ClientApp:
    """The app, for the runs that messages name or for one that this process has as objects.

    Args:
        run: The one run that its clients take part in, whatever the settings of a message say; None to make
            a run of those settings.
        local: Whether whoever wrote the settings started this process too, so that code which they name is
            theirs to run.
    """
    app = ClientApp(mods=[packed_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One round of local distillation; heavy imports wait until the first message."""
        from clients.work import answer_train

        return answer_train(message, context, **_what_is_run(run, local=local))

    app.query("index")(index)
    for query in QUERIES:
        app.query(query)(partial(sum_query, query, run=run, local=local))
    return app


def sum_query(query: str, message: Message, context: Context, *, run: "Run | None", local: bool) -> Message:
    """A step of a secure sum beside the masked vector, see `clients.sum_party`."""
    from clients.work import answer_sum_query

    return answer_sum_query(query, message, context, **_what_is_run(run, local=local))


def _what_is_run(run: "Run | None", *, local: bool) -> dict[str, Any]:
    """For `clients.work`: the one run that this process has, or that of a message's settings."""
    return {"local": local or is_simulated()} if run is None else {"run_of": lambda _: run, "local": True}


def is_simulated() -> bool:
    """Whether Flower's own simulation calls the app: in a worker of Ray, which no SuperNode starts."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def index(message: Message, context: Context) -> Message:
    """This client's index, whether it has pairs of its own, and where it may be told what they cost.

    Cohorts are drawn over indices, because node ids differ from run to run.
    """
    own = bool(context.node_config.get("data-dir"))
    told = context.node_config.get("partition-id", index_of_node(context.node_id) if own else 0)
    metrics = MetricRecord({"client": int(told), "own-pairs": int(own)})
    if own and TELL in context.node_config:
        from clients.device import told_epsilon

        metrics.update(told_epsilon(context.node_config, node_id=context.node_id))
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


app = make_app()
