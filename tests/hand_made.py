"""A federation whose clients do arithmetic that can be checked by hand, on the real loop and grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid

from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.settings import FederationConfig
from server.asynchronous.buffer import Buffer
from server.asynchronous.speeds import TimedGrid
from server.cohort import terms_of
from server.local_grid import Fault, LocalGrid, local_grid, set_identity
from server.loop import Federation, RoundReport
from server.patience import Clock, MadeUpTime, PatientGrid
from server.strategies import to_record
from tests.tiny_federation import strategy_of

Weights = dict[str, np.ndarray]
TOKEN = "0123456789abcdef"


def start() -> Weights:
    """Global weights before the first round; names on purpose not in the order of the alphabet."""
    return {
        "stem.weight": np.array([[1.0, -2.0], [0.5, 4.0]], dtype=np.float32),
        "scale": np.array(1.5, dtype=np.float32),
        "bias": np.array([0.25, -0.75, 3.0], dtype=np.float32),
    }


def records(
    arrays: Mapping[str, np.ndarray], *, client: int, num_examples: int = 10, loss: float = 1.0
) -> RecordDict:
    """What a well-behaved client answers."""
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss, "client": client})
    return RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()}),
            "metrics": metrics,
        }
    )


def app_of(step: Callable[[Weights, int, int], RecordDict], *, mods: Sequence[Mod] = ()) -> ClientApp:
    """Client app that answers ``step(weights, round, client)``."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        weights = {name: arrays[name].numpy() for name in arrays}
        round_index = int(message.content.config_records["config"]["server-round"])
        content = step(weights, round_index, int(context.node_config["partition-id"]))
        return Message(content, reply_to=message)

    @app.query("index")
    def index(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"client": int(context.node_config["partition-id"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def drift(weights: Weights, round_index: int, client: int) -> RecordDict:
    """Every client moves each weight by another amount in each round."""
    moved = {
        name: value + np.float32(0.01 * (client + 1) * (-1) ** round_index + 0.002 * round_index)
        for name, value in weights.items()
    }
    return records(moved, client=client, num_examples=10 * (client + 1), loss=1.0 / (client + 1))


def contexts(num_clients: int, *, first_node: int = 100, step: int = 1) -> dict[int, Context]:
    """Contexts of clients 0, 1, ... on nodes ``first_node``, ``first_node + step``, ..."""
    return {
        first_node + step * client: Context(
            run_id=1,
            node_id=first_node + step * client,
            node_config={"partition-id": client, "num-partitions": num_clients},
            state=RecordDict(),
            run_config={},
        )
        for client in range(num_clients)
    }


def run_config(*changes: str) -> RunConfig:
    """Settings by their keys within ``federation``, or with the section named."""
    return load_config(None, [one if "." in one.split("=")[0] else f"federation.{one}" for one in changes])


@contextmanager
def federation(
    folder: Path,
    *changes: str,
    step: Callable[[Weights, int, int], RecordDict] = drift,
    fault: Fault | None = None,
    nodes: Mapping[int, Context] | None = None,
    report: Callable[[RoundReport], None] = lambda _: None,
    answer_s: Mapping[int, float] | None = None,
    between: Callable[[LocalGrid], Grid] = lambda grid: grid,
) -> Iterator[Federation]:
    """A federation of ``federation.num_clients`` hand-made clients.

    Args:
        folder: Run folder.
        changes: Settings.
        step: What a client answers.
        fault: See `LocalGrid`.
        nodes: Contexts of the clients.
        report: Called after each round.
        answer_s: Seconds that each node takes, by made-up time; None for real time.
        between: Puts another grid around the clients, below that of the made-up time.
    """
    config = run_config(*changes)
    folder.mkdir(exist_ok=True)
    around = nodes if nodes is not None else contexts(config.federation.num_clients)
    size, stale = config.federation.buffer_size, config.federation.max_staleness
    with local_grid(app_of(step), around, fault=fault) as local:
        grid, clock = between(local), Clock()
        if answer_s is not None:
            time = MadeUpTime()
            clock = time.clock()
            grid = PatientGrid(TimedGrid(grid, answer_s, time), clock=clock)
        yield Federation(
            grid=grid,
            clock=clock,
            buffer=Buffer(size=size, max_staleness=stale) if size else None,
            config=config.federation,
            terms=terms_of(config.federation, on_flower=False),
            strategy=strategy_of(config),
            token=TOKEN,
            seed=config.seed,
            folder=folder,
            evaluate=lambda *_: {},
            report=report,
        )


def with_rounds(config: FederationConfig, num_rounds: int) -> FederationConfig:
    """The same federation over another number of rounds."""
    return replace(config, num_rounds=num_rounds)


def question(node: int, *, round_index: int = 1) -> Message:
    """A round's message to one node, outside of any federation."""
    set_identity()
    config = ConfigRecord({"server-round": round_index, "run": TOKEN})
    return Message(RecordDict({"arrays": to_record(start()), "config": config}), node, "train")
