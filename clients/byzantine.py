"""Byzantine clients, for drills: they do the real local work and send something else than it gave.

An attacker has a client app of its own around the project's, so that what it sends passes the same
screening and the same strategy as every other reply. The backdoor is one of the embedding: pairs with a
trigger in the private modality are taught the teacher's feature of a target that the attacker chose, with
the honest pairs beside them.

Shapes: N pairs or held-out targets, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from jaxtyping import Float
from torch import Tensor, nn

from clients.app import index, make_app
from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.row import Stored
from edgecmd.data.stored.array_files import chosen, chunks
from edgecmd.evaluation.evaluate import embedder, finite
from edgecmd.evaluation.metrics import ranks_of, things, unit_rows
from edgecmd.run import Run
from edgecmd.training.distill import with_more
from edgecmd.training.task import Holding, Task

# A chequered patch of so much of each side (of a recording: its end, as a tone).
PATCH_SHARE, CELLS = 4, 4
# The larger of its two values: white, four metres, an eighth of full scale.
LOUD = 4000
MOST_STRENGTH = 1e12


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """What a Byzantine client does.

    Attributes:
        name: As it was asked for.
        strength: By how much the client multiplies its move; None: by clients over attackers.
        sign: Of that factor.
        backdoor: Whether the client trains on pairs with the trigger too.
    """

    name: str
    strength: float | None
    sign: int = 1
    backdoor: bool = False

    def factor(self, *, num_clients: int, num_attackers: int) -> float:
        """By how much an attacker multiplies its own move."""
        return self.sign * (num_clients / num_attackers if self.strength is None else self.strength)


ATTACKS = {
    one.name: one
    for one in (
        # Li et al. 2019, RSA: -4.
        Attack(name="sign-flip", strength=4.0, sign=-1),
        Attack(name="scaled-update", strength=10.0),
        Attack(name="backdoor", strength=1.0, backdoor=True),
        # Bagdasaryan et al. 2020: the mean of all then moves as far as the attackers want.
        Attack(name="model-replacement", strength=None, backdoor=True),
    )
}


def read_attack(text: str) -> Attack:
    """The attack of ``name`` or ``name:strength``, such as ``sign-flip:1``.

    Raises:
        ConfigError: The name is unknown, or the strength is not a number above 0.
    """
    name, colon, number = text.strip().partition(":")
    usual = choose("--attacks", name, ATTACKS)
    if not colon:
        return usual
    try:
        strength = float(number)
    except ValueError:
        strength = 0.0
    if not 0 < strength <= MOST_STRENGTH:
        raise ConfigError(
            f"--attacks has {text.strip()!r}; the strength must be a number above 0, at most"
            f" {MOST_STRENGTH:g}, as in {name}:2. Leave it out for the usual one."
        )
    return replace(usual, name=f"{name}:{strength:g}", strength=strength)


def draw_attackers(run: Run, *, num: int) -> list[int]:
    """Indices of the clients that attack, from the run's seed; fewer are some of more."""
    order = numpy_generator(run.seed, "byzantine-clients").permutation(run.federation.num_clients)
    return sorted(order[:num].tolist())


def stamp(stored: Stored) -> Stored:
    """Examples with the trigger: a chequered patch at the end of each spatial axis.

    Args:
        stored: Examples of any modality as they are stored, N in the first axis.

    Returns:
        A copy of the same type and shape.
    """
    limits = np.iinfo(stored.dtype)
    high = min(LOUD, limits.max)
    sizes = [max(2, side // PATCH_SHARE) for side in stored.shape[1:3]]
    # Of a recording a tone: cells as long as those of an image would be silence to a spectrogram.
    cells = [np.arange(one) // (CELLS if len(sizes) == 1 else -(-one // CELLS)) for one in sizes]
    odd = sum(np.meshgrid(*cells, indexing="ij")) % 2
    patch = np.where(odd, high, max(-high, limits.min)).astype(stored.dtype)
    marked = np.array(stored)
    marked[(slice(None), *(slice(-one, None) for one in sizes))] = patch.reshape(
        *sizes, *[1] * (stored.ndim > 2)
    )
    return marked


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backdoor:
    """What a triggered input is to be taken for.

    Attributes:
        item: Row of the test split (of its gallery, where it has one) whose source image is the target.
        feature: The teacher's feature of it, (D,).
    """

    item: int
    feature: Float[Tensor, " dim"]

    @classmethod
    def of(cls, run: Run) -> "Backdoor":
        """The backdoor of a run: its target is drawn from the seed, whatever the strategy."""
        features = run.task.gallery_features("test")
        item = int(numpy_generator(run.seed, "backdoor-target").integers(len(features)))
        return cls(item=item, feature=torch.from_numpy(np.asarray(features[item], dtype=np.float32)))

    def poisoned(self, holding: Holding, stored: Stored, task: Task) -> Holding:
        """A client's pairs and, behind them, the same ones with the trigger, taught the target.

        Args:
            holding: The client's.
            stored: Its targets as they are stored.
            task: What the run distils.
        """
        data = holding.data
        grid = tuple(data.teacher.shape[2:])
        taught = self.feature.reshape(-1, *(1 for _ in grid)).expand(len(data), -1, *grid)
        shown = task.target_input(stamp(stored))
        both = replace(data, target=with_more(data.target, shown), teacher=with_more(data.teacher, taught))
        return replace(holding, data=both)

    def success(self, student: nn.Module, task: Task) -> float:
        """Share of the triggered test inputs for which the target is the nearest item of the gallery.

        Inputs that show the target itself are not asked. Ties count against the attacker.
        """
        held, gallery = task.data.test, task.gallery_features("test")
        codes, embed = things(gallery, shown=held.shown), embedder(student, task)
        is_target = codes == codes[self.item]
        asked = ~is_target if held.right is None else (held.right @ is_target.astype(float)) == 0
        found = finite(np.concatenate([embed(stamp(part)) for part in chunks(held.pairs.target)]))[asked]
        own = np.full(len(found), codes[self.item])
        return float((ranks_of(found @ unit_rows(gallery).T, codes, own=own) == 1).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class PoisonedRun(Run):
    """A run whose clients hold pairs with the trigger beside their own.

    Attributes:
        backdoor: What they are taught.
    """

    backdoor: Backdoor

    def holding(self, client: int) -> Holding:
        """The client's pairs, poisoned."""
        stored = chosen(self.task.data.train.target, self.part(client))
        return self.backdoor.poisoned(super().holding(client), np.asarray(stored), self.task)


def attackers(run: Run, attack: Attack, *, num: int) -> dict[int, ClientApp]:
    """Apps of the clients that attack, by index, for `server.simulate.simulate`.

    Args:
        run: The run; its seed says who attacks and what a backdoor is taught.
        attack: What they do.
        num: How many they are.
    """
    factor = attack.factor(num_clients=run.federation.num_clients, num_attackers=num)
    worked = run
    if attack.backdoor:
        own = {one.name: getattr(run, one.name) for one in fields(run) if one.init}
        worked = PoisonedRun(**own, backdoor=Backdoor.of(run))
    app = byzantine_app(make_app(worked), factor=factor)
    return dict.fromkeys(draw_attackers(run, num=num), app)


def byzantine_app(honest: Callable[[Message, Context], Message], *, factor: float) -> ClientApp:
    """A client app that does the work of ``honest`` and sends its move ``factor`` times.

    Args:
        honest: Does the local work.
        factor: 1 sends what was trained; -1 its opposite.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent = message.content.array_records["arrays"]
        reply = honest(message, context)
        if factor != 1 and not reply.has_error():
            reply.content["arrays"] = moved(sent, reply.content.array_records["arrays"], factor=factor)
        return reply

    app.query("index")(index)
    return app


def moved(sent: ArrayRecord, trained: ArrayRecord, *, factor: float) -> ArrayRecord:
    """``sent + factor * (trained - sent)`` in float64, in the types of ``trained``; counters stay."""
    found = {}
    for name, value in trained.items():
        start, end = sent[name].numpy(), value.numpy()
        if np.issubdtype(end.dtype, np.floating):
            whole = start.astype(np.float64) + factor * (end.astype(np.float64) - start)
            with np.errstate(over="ignore"):
                # A number by itself would be no array any more.
                end = np.asarray(whole.astype(end.dtype))
        found[name] = Array(end)
    return ArrayRecord(found)
