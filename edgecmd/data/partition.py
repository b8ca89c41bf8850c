"""Which client of a simulation holds which pairs.

Every way of cutting gives every client at least `MIN_PAIRS` and ends after a number of steps that is known
beforehand: nothing is drawn again. All but ``resampled`` deal each pair to exactly one client.

Shapes: N pairs.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from edgecmd.core.errors import ConfigError, DataError, choose
from edgecmd.core.own_code import RAISED, call_factory, is_own, load_factory
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.settings import FederationConfig

Rows = Int[np.ndarray, " _"]

# A contrastive loss needs a second pair to tell the first one from.
MIN_PAIRS = 2
# Of the logarithm of a user's size: the largest of a hundred is some twelve times the median.
SIZE_SIGMA = 1.0
SETTING = "federation.partition"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """What a partition may follow.

    Attributes:
        owner: Who made each pair, (N,).
        labels: Label of each pair, (N,).
        subgroup: Finer label of each pair, (N,).
    """

    owner: Labels
    labels: Labels
    subgroup: Labels

    def __post_init__(self) -> None:
        counts = {len(one.values) for one in (self.owner, self.labels, self.subgroup)}
        if len(counts) > 1:
            raise DataError(f"owner, labels and subgroup have different numbers of rows: {sorted(counts)}.")

    def __len__(self) -> int:
        return len(self.owner.values)


class ClientRow(TypedDict):
    """One line of `partition_table`."""

    client: int
    pairs: int
    classes: dict[str, int]
    largest_share: float


def iid(pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    """Shuffle and cut into equal parts; sizes differ by one at most."""
    del alpha
    return np.array_split(generator.permutation(len(pairs)), num_clients)


def dirichlet(pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    """Deal each class by shares drawn from a symmetric Dirichlet distribution (Hsu et al. 2019).

    Args:
        pairs: ``labels`` is used; unlabelled pairs are dealt like a class of their own.
        num_clients: Parts.
        alpha: Concentration.
        generator: Source of the shares and of the order within a class.

    """
    parts: list[list[Rows]] = [[] for _ in range(num_clients)]
    for group in _groups(np.arange(len(pairs)), pairs.labels.values):
        shares = generator.dirichlet(np.full(num_clients, alpha))
        cuts = (np.cumsum(shares)[:-1] * len(group)).astype(np.int64)
        for part, piece in zip(parts, np.split(generator.permutation(group), cuts), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def owner(pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    """Give whole owners to clients; with more clients than owners, cut owners by subgroup.

    With more clients than there are subgroups of an owner, these are cut too. Where something is
    cut, the clients are shared out in proportion to the numbers of pairs.

    Args:
        pairs: ``owner`` and ``subgroup`` are used; pairs without one form an owner (a subgroup)
            of their own.
        num_clients: Parts.
        alpha: Not used.
        generator: Source of the order where a subgroup is cut.
    """
    del alpha
    levels = (pairs.owner.values, pairs.subgroup.values)
    return _deal(np.arange(len(pairs)), levels, num_clients=num_clients, generator=generator)


def users(pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator) -> list[Rows]:
    """Divide each owner's pairs among users who differ in size and in topics.

    An owner, such as a language, gets users in proportion to its pairs, one at least. Each user has a size
    drawn from a log-normal distribution (of `SIZE_SIGMA`, median 1) and shares of the topics from a symmetric
    Dirichlet distribution; a topic's pairs are dealt by the products of both.

    Args:
        pairs: ``owner`` is used, and as topics ``subgroup``, or ``labels`` where no pair has a subgroup.
        num_clients: Users, as many as there are owners at least; with fewer, whole owners are dealt, as by
            ``owner``.
        alpha: Concentration of the topics.
        generator: Source of sizes, shares and of the order within a topic.
    """
    owners = _groups(np.arange(len(pairs)), pairs.owner.values)
    if num_clients <= len(owners):
        return _pack(owners, num_clients)
    topic = pairs.subgroup.values
    if (topic == UNLABELLED).all():
        topic = pairs.labels.values
    parts = list[Rows]()
    for rows, num in zip(owners, _apportion([len(one) for one in owners], num_clients), strict=True):
        sizes = generator.lognormal(sigma=SIZE_SIGMA, size=num)
        held: list[list[Rows]] = [[] for _ in range(num)]
        topics = _groups(rows, topic)
        wanted = sizes[:, None] * generator.dirichlet(np.full(len(topics), alpha), size=num)
        for group, share in zip(topics, wanted.T, strict=True):
            # A tiny alpha may leave a topic that nobody of few users wants.
            share = share if share.sum() > 0 else sizes
            cuts = (np.cumsum(share / share.sum())[:-1] * len(group)).astype(np.int64)
            for one, piece in zip(held, np.split(generator.permutation(group), cuts), strict=True):
                one.append(piece)
        dealt = [np.concatenate(one) for one in held]
        # Here and not later, so that who lacks pairs gets some of the same owner.
        enough = len(rows) >= MIN_PAIRS * num
        parts += _top_up(dealt, generator=generator) if enough else dealt
    return parts


def resampled(
    pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator, num_each: int
) -> list[Rows]:
    """Let each client draw ``num_each`` different pairs, whatever the others drew."""
    del alpha
    return [generator.choice(len(pairs), num_each, replace=False, shuffle=False) for _ in range(num_clients)]


# A pure function of `Pairs`, ``num_clients``, ``alpha`` and ``generator``: rows of each client.
Deal = Callable[..., Sequence[Rows]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """One way of dividing pairs among clients.

    Attributes:
        deal: Which client gets which pairs.
        follows: The field of `Pairs` in which some pair must have a value; empty: none.
        what: What that field holds, in the plural.
        file: Where a user gives it.
        takes_alpha: Whether ``federation.alpha`` sets its skew.
        equal: Whether all clients get the same number, give or take one.
        resamples: Whether a pair may be at several clients, so that there may be any number of them; ``deal``
            then takes ``num_each``, the pairs of each.
    """

    deal: Deal
    follows: str = ""
    what: str = ""
    file: str = ""
    takes_alpha: bool = False
    equal: bool = False
    resamples: bool = False


PARTITIONS: dict[str, Partition] = {
    "iid": Partition(deal=iid, equal=True),
    "dirichlet": Partition(
        deal=dirichlet,
        follows="labels",
        what="labels",
        file="labels.csv with the columns id,label",
        takes_alpha=True,
    ),
    "owner": Partition(
        deal=owner,
        follows="owner",
        what="owners",
        file="pairs.csv with the columns id,owner",
    ),
    "users": Partition(
        deal=users,
        follows="owner",
        what="owners",
        file="pairs.csv with the columns id,owner",
        takes_alpha=True,
    ),
    "resampled": Partition(deal=resampled, equal=True, resamples=True),
}


def partition_of(name: str) -> Partition:
    """The way of cutting that ``federation.partition`` names, one of a user's own among them.

    An own one, ``module:function``, is called with those of ``num_pairs``, ``owners``, ``labels``,
    ``subgroups`` (integer codes of each pair, -1 where unknown), ``num_clients``, ``alpha`` and ``generator``
    (`numpy.random.Generator`, from the run's seed) that it names as parameters. It returns the row indices of
    each client.

    Raises:
        ConfigError: The name is unknown, or the code cannot be imported.
    """
    if not is_own(name):
        return choose(SETTING, name, PARTITIONS)
    load_factory(SETTING, name)
    return Partition(deal=partial(_own, name))


def _own(
    name: str, pairs: Pairs, *, num_clients: int, alpha: float, generator: np.random.Generator
) -> list[Rows]:
    """What a user's function deals.

    Raises:
        ConfigError: It is not a list of rows for each client in which every pair is once.
    """
    offered = {
        "num_pairs": len(pairs),
        "owners": pairs.owner.values,
        "labels": pairs.labels.values,
        "subgroups": pairs.subgroup.values,
        "num_clients": num_clients,
        "alpha": alpha,
        "generator": generator,
    }
    made = call_factory(SETTING, name, offered=offered)
    try:
        # An empty list would be an array of floats.
        parts = [np.asarray(part) if len(part) else np.zeros(0, np.int64) for part in made]
        rows = np.concatenate(parts)
    # What a user's code returns may raise anything while it is looked through.
    except RAISED:
        parts, rows = [], np.zeros(0)
    is_dealt = rows.dtype.kind in "iu" and np.array_equal(np.sort(rows), np.arange(len(pairs)))
    if len(parts) != num_clients or not is_dealt or any(part.ndim != 1 for part in parts):
        raise ConfigError(
            f"{SETTING}={name!r} did not give a partition. Return federation.num_clients={num_clients}"
            f" arrays of row indices in which each of the rows 0 to {len(pairs) - 1} is exactly once."
        )
    return [part.astype(np.int64) for part in parts]


def partition(
    owner: Labels,
    labels: Labels,
    subgroup: Labels,
    *,
    by: str,
    num_clients: int,
    seed: int,
    alpha: float = FederationConfig().alpha,
    num_each: int = 0,
) -> tuple[Rows, ...]:
    """Divide N training pairs into the clients' parts.

    Args:
        owner: Who made each pair, (N,).
        labels: Label of each pair, (N,).
        subgroup: Finer label of each pair, (N,).
        by: A key of `PARTITIONS`, or ``module:function`` (`partition_of`).
        num_clients: Parts.
        seed: Seed of the run.
        alpha: Concentration of ``dirichlet``; smaller is more skewed.
        num_each: Pairs of a client of ``resampled``; 0: N / ``num_clients``, `MIN_PAIRS` at least.

    Returns:
        Sorted row indices of each client.

    Raises:
        ConfigError: The partition is unknown, there are too few pairs, or the pairs lack what the
            partition follows.
        DataError: The three labellings have different lengths.

    Guarantees:
        Every row is in exactly one part, but for ``resampled``, whose parts have different rows each; every
        part has at least `MIN_PAIRS` rows; equal arguments give equal parts, where an own function does so.
    """
    cut = partition_of(by)
    pairs = Pairs(owner=owner, labels=labels, subgroup=subgroup)
    _check_enough(len(pairs), num_clients=1 if cut.resamples else num_clients)
    _check_known(pairs, cut, by=by)
    generator = numpy_generator(seed, "partition")
    if cut.resamples:
        num = num_each or max(MIN_PAIRS, len(pairs) // num_clients)
        _check_each(num, len(pairs))
        drawn = cut.deal(pairs, num_clients=num_clients, alpha=alpha, generator=generator, num_each=num)
        return tuple(np.sort(part) for part in drawn)
    if num_each:
        raise ConfigError(
            f"federation.pairs_per_client={num_each} is for {SETTING}='resampled'; {by!r} deals all pairs."
            " Set it to 0, or choose 'resampled'."
        )
    parts = cut.deal(pairs, num_clients=num_clients, alpha=alpha, generator=generator)
    return tuple(np.sort(part) for part in _top_up(parts, generator=generator))


def partition_table(parts: Sequence[Rows], labels: Labels) -> list[ClientRow]:
    """Size and label counts of each client.

    Args:
        parts: Rows of each client, as `partition` gives them.
        labels: Label of each training pair, (N,).

    Returns:
        A line per client: ``client``, ``pairs``, ``classes`` (pairs by class name, without empty
        classes) and ``largest_share``, the share of the most frequent class.
    """
    names = (*labels.names, "(unlabelled)")
    table: list[ClientRow] = []
    for client, counts in enumerate(_class_counts(parts, labels)):
        classes = {names[index]: int(counts[index]) for index in np.flatnonzero(counts)}
        share = float(counts.max() / max(counts.sum(), 1))
        table.append(ClientRow(client=client, pairs=int(counts.sum()), classes=classes, largest_share=share))
    return table


def label_skew(parts: Sequence[Rows], labels: Labels) -> float:
    """Mean total variation between the labels of a client and those of all clients together.

    Args:
        parts: Rows of each client, none empty.
        labels: Label of each training pair, (N,); unlabelled pairs count as a class.

    Returns:
        0 if all clients have the overall distribution; it approaches 1 for many clients that have one
        class each.
    """
    counts = _class_counts(parts, labels)
    overall = counts.sum(axis=0) / counts.sum()
    shares = counts / counts.sum(axis=1, keepdims=True)
    return float(0.5 * np.abs(shares - overall).sum(axis=1).mean())


def _class_counts(parts: Sequence[Rows], labels: Labels) -> Float[np.ndarray, "clients classes"]:
    """Pairs by client and class; the last column counts the unlabelled."""
    num_classes = len(labels.names) + 1
    values = np.where(labels.values == UNLABELLED, num_classes - 1, labels.values)
    return np.array([np.bincount(values[part], minlength=num_classes) for part in parts], dtype=float)


def _check_known(pairs: Pairs, cut: Partition, *, by: str) -> None:
    """Refuse a partition whose labelling the data do not have."""
    if cut.follows and not (getattr(pairs, cut.follows).values != UNLABELLED).any():
        raise ConfigError(
            f"{SETTING}={by!r} follows {cut.what}, but the data have none. Add {cut.file} beside the pairs,"
            f" or set {SETTING} to 'iid'."
        )


def _check_enough(num_pairs: int, *, num_clients: int) -> None:
    """Refuse more clients than the pairs suffice for."""
    if num_pairs < MIN_PAIRS:
        raise ConfigError(f"There are {num_pairs} training pairs; one client needs {MIN_PAIRS}. Add pairs.")
    if num_pairs < MIN_PAIRS * num_clients:
        raise ConfigError(
            f"federation.num_clients={num_clients} needs {MIN_PAIRS * num_clients} training pairs,"
            f" {MIN_PAIRS} a client; there are {num_pairs}."
            f" Set federation.num_clients to {num_pairs // MIN_PAIRS} or less, add pairs, or let clients"
            f" share them: {SETTING}='resampled'."
        )


def _check_each(num_each: int, num_pairs: int) -> None:
    """Refuse clients of one pair, or of more pairs than there are."""
    if not MIN_PAIRS <= num_each <= num_pairs:
        raise ConfigError(
            f"federation.pairs_per_client={num_each} is outside {MIN_PAIRS}..{num_pairs}, the training pairs."
        )


def _groups(rows: Rows, values: np.ndarray) -> list[Rows]:
    """``rows`` apart by their entry in ``values``."""
    order = rows[np.argsort(values[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1)


def _deal(
    rows: Rows, levels: Sequence[np.ndarray], *, num_clients: int, generator: np.random.Generator
) -> list[Rows]:
    """Cut ``rows`` for ``num_clients``, along the first of ``levels`` where that is enough."""
    if num_clients == 1:
        return [rows]
    if not levels:
        return np.array_split(generator.permutation(rows), num_clients)
    groups = _groups(rows, levels[0])
    if num_clients <= len(groups):
        return _pack(groups, num_clients)
    shares = _apportion([len(group) for group in groups], num_clients)
    return [
        part
        for group, share in zip(groups, shares, strict=True)
        for part in _deal(group, levels[1:], num_clients=share, generator=generator)
    ]


def _pack(groups: Sequence[Rows], num_clients: int) -> list[Rows]:
    """Give each group as a whole, largest first, to the client that holds the least so far."""
    held: list[list[Rows]] = [[] for _ in range(num_clients)]
    heap = [(0, client) for client in range(num_clients)]
    for group in sorted(groups, key=len, reverse=True):
        load, client = heapq.heappop(heap)
        held[client].append(group)
        heapq.heappush(heap, (load + len(group), client))
    return [np.concatenate(one) for one in held]


def _apportion(sizes: Sequence[int], num_clients: int) -> list[int]:
    """Clients of each group: one at least, the others where a client would hold most (D'Hondt)."""
    shares = [1] * len(sizes)
    heap = [(-size / 2, index) for index, size in enumerate(sizes)]
    heapq.heapify(heap)
    for _ in range(num_clients - len(sizes)):
        _, index = heap[0]
        shares[index] += 1
        heapq.heapreplace(heap, (-sizes[index] / (shares[index] + 1), index))
    return shares


def _top_up(parts: Sequence[Rows], *, generator: np.random.Generator) -> list[Rows]:
    """Move pairs from the largest clients to those below `MIN_PAIRS`, one by one.

    Ends after exactly as many moves as pairs are missing: while a client is below the minimum, the
    largest one is above it, since there are enough pairs for all.
    """
    needy = [client for client, part in enumerate(parts) if len(part) < MIN_PAIRS]
    if not needy:
        return list(parts)
    held: Mapping[int, list[int]] = {
        client: generator.permutation(part).tolist() for client, part in enumerate(parts)
    }
    heap = [(-len(part), client) for client, part in enumerate(parts)]
    heapq.heapify(heap)
    for client in needy:
        while len(held[client]) < MIN_PAIRS:
            _, giver = heap[0]
            held[client].append(held[giver].pop())
            heapq.heapreplace(heap, (-len(held[giver]), giver))
    return [np.array(held[client], dtype=np.int64) for client in range(len(parts))]
