"""What a run sends to its clients, and which replies fit: below whatever decides who is asked, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from edgecmd.core.own_code import running
from edgecmd.settings import FederationConfig
from edgecmd.training.averaging import Arrays
from edgecmd.training.codecs import Wire
from server.cohort import CohortGrid, Terms
from server.patience import Clock
from server.screening import Rejection, match
from server.strategies import from_record, to_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Messenger:
    """What messages of a run are made of, and where they go.

    Attributes:
        grid: Where the clients are.
        config: Rounds, cohort, strategy.
        terms: Quorum and deadline.
        strategy: Flower's strategy; its momenta change from round to round.
        token: Name of the run; clients keep the states of different runs apart by it.
        private: Whether replies hold weights alone, and reasons are sealed.
        expectations: Words and digests by name that devices compare with their own; sent with each round.
        clock: What waiting goes by.
        wire: How weights travel; None where they do as they are.
    """

    grid: Grid
    config: FederationConfig
    terms: Terms
    strategy: FedAvg
    token: str
    private: bool = False
    expectations: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    wire: Wire | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What came in for one round.

    Attributes:
        usable: Replies to aggregate, by client.
        rejected: What was dropped or did not come.
        num_asked: Clients whose replies were waited for.
        num_sent: Messages with weights that were sent.
        num_unknown: Nodes among the rejected that could not be asked: who they are is not known.
        staleness: Age of each usable reply in rounds, in asynchronous rounds.
        num_summed: Clients for which the one reply stands; 0 where each has its own.
        told: Pairs and mean loss of each client, where the one reply cannot say them.
        num_at_once: Clients that trained with others at once; None where none was to.
    """

    usable: list[Message]
    rejected: list[Rejection]
    num_asked: int
    num_sent: int
    num_unknown: int = 0
    staleness: tuple[int, ...] = ()
    num_summed: int = 0
    told: tuple[tuple[int, float], ...] = ()
    num_at_once: int | None = None

    @property
    def num_clients(self) -> int:
        """Clients that are aggregated."""
        return self.num_summed or len(self.usable)


def train_messages(
    messenger: Messenger, arrays: Arrays, cohort: list[int], round_index: int
) -> list[Message]:
    """The messages of a round to the nodes of ``cohort``, in their order."""
    if not cohort:
        return []
    with running(f"The strategy {messenger.config.strategy!r}", messenger.strategy):
        # Some make the messages only while one goes through them.
        messages = list(
            messenger.strategy.configure_train(
                round_index,
                to_record(arrays),
                ConfigRecord({**messenger.expectations, "run": messenger.token}),
                CohortGrid(messenger.grid, cohort),
            )
        )
    if messenger.wire is not None:
        # Messages may share what they hold.
        for content in {id(one.content): one.content for one in messages}.values():
            weights = from_record(content.array_records["arrays"], like=arrays)
            content["arrays"] = to_record(messenger.wire.sent(weights))
    place = {node: index for index, node in enumerate(cohort)}
    for message in messages:
        message.metadata.group_id = str(round_index)
    return sorted(messages, key=lambda message: place[message.metadata.dst_node_id])


def exchange(messenger: Messenger, messages: list[Message]) -> tuple[dict[int, Message], list[Rejection]]:
    """Send messages; the answers by node, and what was dropped or did not come."""
    deadline_s = messenger.terms.deadline_s
    kept = lasting(messages, deadline_s)
    replies = list(messenger.grid.send_and_receive(kept, timeout=deadline_s)) if kept else []
    # A grid names a message only when it sends it.
    asked = {message.metadata.message_id: message for message in messages}
    return match(replies, asked, silence=f"no reply within federation.deadline_s={deadline_s:g} s")


def lasting(messages: list[Message], deadline_s: float) -> list[Message]:
    """The same messages, which live for a deadline: Flower's own twelve hours may be less."""
    for message in messages:
        message.metadata.ttl = max(message.metadata.ttl, deadline_s)
    return messages
