"""One run, as all its parties see it: task, student, recipe, federation and privacy, as objects.

Made of settings by `edgecmd.config.assemble`, or by the library of a user's own objects. What belongs to the
run and not to a single round is made once and kept with it.

Shapes: N pairs, C channels, D embedding dimension.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgecmd.core.errors import ConfigError, DataError, PrivacyError
from edgecmd.core.files import write_text_atomically
from edgecmd.core.kept import Kept
from edgecmd.core.seeding import torch_generator
from edgecmd.data.experiment import Experiment
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.partition import partition
from edgecmd.data.stored.array_files import chosen, chunks
from edgecmd.losses import Anchors, Loss, loss_of
from edgecmd.models.backbones import is_backbone
from edgecmd.models.batch_norm import batch_norm_of
from edgecmd.models.devices import place
from edgecmd.models.student_file import load_student
from edgecmd.models.students import ANY_FRONT, INK, STUDENTS, Student, build_student, student_row
from edgecmd.models.trained_part import LAST, train_part
from edgecmd.privacy.plan import PrivacyPlan, make_plan
from edgecmd.privacy.secure_sum.sum_plan import SumPlan, make_sum_plan
from edgecmd.settings import (
    DistillConfig,
    EvaluateConfig,
    FederationConfig,
    PrivacyConfig,
    StudentConfig,
)
from edgecmd.training.codecs import Wire, wire_of
from edgecmd.training.distill import Place, distil, learning_rate_at, make_optimizer
from edgecmd.training.places import require_dense
from edgecmd.training.stacked import Stack, Visit, distil_together
from edgecmd.training.task import Holding, Task

Scalar = str | int | float | bool
# What clients hold stays in memory up to this; who comes after is read again when it is asked.
MOST_HELD_BYTES = 2**30


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """What a run of objects has in place of what settings name.

    Attributes:
        parts: Rows of the training pairs that each client holds.
        student: Its weights are the first ones.
        loss: What is minimised.
    """

    parts: tuple[np.ndarray, ...]
    student: Student
    loss: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What is written down and sent of a run's settings.

    Attributes:
        toml: All settings, for ``config.toml``.
        comparable: The same without what changes no result: equal texts, equal results.
        flat: All settings by dotted key, as Flower carries them to the nodes.
        defaults: The default of each of them.
    """

    toml: str
    comparable: str
    flat: Mapping[str, Scalar]
    defaults: Mapping[str, Scalar]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One run.

    Attributes:
        folder: Where its files are.
        seed: Of everything but the teacher.
        device: Where tensors live.
        make_task: Gives the task; data are not read before they are needed. See `task`.
        student: Which student, and where its first weights are.
        distill: A client's local work.
        federation: Clients, rounds and the server's step.
        evaluate: What is measured of the student.
        privacy: What privacy was asked for.
        described: Its settings as texts.
        remake: Makes it in another process, to which it is pickled; None for a run of objects that cannot
            travel.
        given: Objects in place of what the settings name; None where these name all.
        probed: Shapes of inputs at which student and loss were found to keep pairs apart.
    """

    folder: Path
    seed: int
    device: torch.device
    make_task: Callable[[], Task]
    student: StudentConfig
    distill: DistillConfig
    federation: FederationConfig
    evaluate: EvaluateConfig
    privacy: PrivacyConfig
    described: Description
    remake: "Callable[[], Run] | None" = None
    given: Given | None = None
    probed: set[tuple[int, ...]] = field(default_factory=set, init=False)
    _holdings: Kept[int, Holding] = field(
        default_factory=lambda: Kept(MOST_HELD_BYTES, weigh=lambda one: one.data.num_bytes),
        init=False,
    )
    _shells: Kept[tuple[int, int], Student] = field(default_factory=lambda: Kept(8), init=False)

    @cached_property
    def task(self) -> Task:
        """What is distilled."""
        return self.make_task()

    @cached_property
    def plan(self) -> PrivacyPlan | None:
        """The plan of its privacy; None without any.

        Raises:
            PrivacyError: The settings do not earn a guarantee.
        """
        return make_plan(self)

    @cached_property
    def sum_plan(self) -> SumPlan | None:
        """How a secure sum is made of the replies; None where the server sees each of them.

        Raises:
            PrivacyError: The settings do not earn a guarantee, or do not go together with a secure sum.
        """
        if self.plan is not None:
            return self.plan.sum_plan
        return make_sum_plan(self.privacy, self.federation, mechanism=None)

    @cached_property
    def loss(self) -> Loss:
        """What is minimised."""
        return loss_of(self.distill) if self.given is None else self.given.loss

    @property
    def trainable(self) -> str:
        """What of the student is trained, a key of `edgecmd.models.trained_part.TRAINABLE`."""
        return self.student.trainable if self.given is None else self.given.student.trainable

    @cached_property
    def parts(self) -> tuple[np.ndarray, ...]:
        """Rows of the training pairs that each client of a simulation holds."""
        if self.given is not None:
            return self.given.parts
        data = self.task.data
        return partition(
            data.train_owner,
            data.train_labels,
            data.train_subgroup,
            by=self.federation.partition,
            num_clients=self.federation.num_clients,
            seed=self.seed,
            alpha=self.federation.alpha,
            num_each=self.federation.pairs_per_client,
        )

    def part(self, client: int) -> np.ndarray:
        """Rows of the training pairs that one client of a simulation holds.

        Raises:
            ConfigError: There is no such client.
        """
        if not 0 <= client < len(self.parts):
            raise ConfigError(
                f"partition-id={client} is outside 0..{len(self.parts) - 1};"
                " set federation.num_clients to the number of nodes."
            )
        return self.parts[client]

    @property
    def anchors(self) -> Anchors:
        """Public anchors, (K, D)."""
        return self.task.anchors(self.distill, seed=self.seed)

    def holding(self, client: int) -> Holding:
        """Everything that one client of a simulation needs for its local work."""
        return self._holdings.get(
            client, lambda: Holding(data=self.task.local_data(self.part(client)), anchors=self.anchors)
        )

    @cached_property
    def holdings_digest(self) -> str:
        """SHA-256 of which client holds which pairs: by their ids, else by their target images."""
        data, digest = self.task.data, hashlib.sha256()
        for rows in self.parts:
            ids = "\n".join(data.train_ids[row] for row in rows) if data.train_ids else ""
            held = hashlib.sha256(ids.encode())
            for part in () if ids else chunks(chosen(data.train.target, rows)):
                held.update(np.ascontiguousarray(part).data)
            digest.update(held.digest())
        return digest.hexdigest()

    @property
    def ledger_folder(self) -> Path:
        """Folder of a simulation's ledgers: ``privacy.ledger_dir``, where runs add up, or one of the run."""
        return Path(self.privacy.ledger_dir) if self.privacy.ledger_dir else self.folder / "ledger"

    def client_ledger(self, client: int) -> Path:
        """Ledger of a simulated client; that of a device: `edgecmd.privacy.device_ledger`."""
        return self.ledger_folder / f"client-{client:04d}.jsonl"

    @property
    def server_ledger(self) -> Path:
        """Ledger of the server under client-level privacy."""
        return self.ledger_folder / "clients.jsonl"

    def place(self, round_index: int, *, client: int = 0) -> Place:
        """Position in the run of the local work of ``client`` in round ``round_index``, from 1.

        Where the server takes the steps, it also follows the schedule, and clients are always at its start.
        """
        found = Place.of_round(self.federation, seed=self.seed, round_index=round_index, client=client)
        return replace(found, first_step=0, total_steps=1) if self.whole_batches else found

    @property
    def whole_batches(self) -> bool:
        """Whether a client sends one sum over all of its pairs a round, and the server takes the step."""
        return self.plan is not None and self.plan.whole_batches

    @property
    def local_work(self) -> DistillConfig:
        """What a client's work goes by; where it releases sums once, they are a step of rate 1."""
        once = self.plan is not None and self.plan.row.one_shot
        return replace(self.distill, learning_rate=1.0) if once else self.distill

    def optimizer(self, student: nn.Module) -> torch.optim.Optimizer:
        """A client's optimiser; where the server takes the steps, one whose step is the gradient itself."""
        if self.whole_batches:
            return torch.optim.SGD(student.parameters(), lr=self.distill.learning_rate)
        return make_optimizer(student, self.distill)

    def share_of_step(self, round_index: int) -> float:
        """Share of the server's step in round ``round_index``, from 1, that is taken.

        Local steps follow ``distill.schedule`` by themselves; where the server takes them, its step does.
        """
        if not self.whole_batches:
            return 1.0
        whole, total = replace(self.distill, learning_rate=1.0), self.federation.num_rounds
        return learning_rate_at(whole, step=round_index - 1, total_steps=total)

    def train_locally(
        self, student: nn.Module, holding: Holding, *, place: Place, optimizer: torch.optim.Optimizer
    ) -> float:
        """Train ``student`` in place for the local steps of one round, without privacy; the mean loss.

        Args:
            student: Changed.
            holding: The client's pairs and the public anchors.
            place: Seed, round, client and position in the schedule.
            optimizer: Over the student's parameters; its state is changed.

        Raises:
            ConfigError: The client holds one pair alone.
        """
        return distil(
            student,
            holding.data,
            holding.anchors,
            self.distill,
            loss=self.loss,
            num_steps=self.federation.local_steps,
            place=place,
            optimizer=optimizer,
        )

    def train_together(
        self, student: nn.Module, stack: Stack, visits: Sequence[Visit | None]
    ) -> list[float | BaseException | None]:
        """The same for several clients at once; see `edgecmd.training.stacked.distil_together`.

        Args:
            student: Has the weights that all of them begin with.
            stack: Takes the weights of each.
            visits: What each place in the stack does.

        Raises:
            ConfigError: The student or the loss cannot be called for several clients.
        """
        stack.fill(student, frozen="projector." if self.distill.freeze_projector else "")
        return distil_together(
            student,
            stack,
            visits,
            self.anchors,
            self.distill,
            loss=self.loss,
            num_steps=self.federation.local_steps,
            make=self.optimizer,
        )

    def wire(self, student: nn.Module) -> Wire | None:
        """How weights of the run's student travel; None where they do as they are."""
        return wire_of(self.federation, student, seed=self.seed)

    def shell(self, input_shape: tuple[int, int, int], embedding_dim: int) -> Student:
        """A student of the run whose weights are about to be overwritten; one and the same at each call.

        Args:
            input_shape: (C, H, W) of its inputs.
            embedding_dim: D.
        """

        def build() -> Student:
            if self.given is not None:
                return place(copy.deepcopy(self.given.student), self.device)
            return self.build(input_shape, embedding_dim, generator=torch.Generator().manual_seed(0))

        return self._shells.get((input_shape[0], embedding_dim), build)

    def build(
        self,
        input_shape: tuple[int, int, int],
        embedding_dim: int,
        *,
        generator: torch.Generator,
        weights: Path | None = None,
        seen: tuple[float, float] = INK,
    ) -> Student:
        """A student as the settings have it.

        Args:
            input_shape: (C, H, W) of its inputs.
            embedding_dim: D.
            generator: Source of its random weights.
            weights: File with first weights; None for random ones.
            seen: Of the task, for pretrained weights; see `build_student`.
        """
        channels, height, width = input_shape
        named = self.student
        student = build_student(
            named.architecture,
            in_channels=channels,
            embedding_dim=embedding_dim,
            generator=generator,
            size=(height, width),
            weights=weights,
            batch_norm=batch_norm_of(
                named.batch_norm, architecture=named.architecture, weights=named.weights
            ),
            seen=seen,
        )
        train_part(student, named.trainable)
        return place(student, self.device)

    def new_student(self) -> Student:
        """First weights: those at ``student.path`` or ``student.weights``, shipped ones, else random.

        Equal settings and files give equal weights.

        Raises:
            ConfigError: The student is not one for the target's modality, or would keep random weights.
            DataError: The file of first weights is missing or holds another student.
        """
        if self.given is not None:
            return place(copy.deepcopy(self.given.student), self.device)
        check_modality(self.student.architecture, self.distill, self.task.data)
        require_first_weights(self.student)
        student = self.build(
            self.task.input_shape,
            self.anchors.shape[1],
            generator=torch_generator(self.seed, "student-init"),
            weights=Path(self.student.weights) if self.student.weights else None,
            seen=self.task.seen,
        )
        if self.student.path:
            load_first_weights(student, Path(self.student.path), self.student.architecture)
        return student


def check_modality(architecture: str, distill: DistillConfig, data: Experiment) -> None:
    """Refuse a student of images for recordings, and the other way round.

    Raises:
        ConfigError: With the students that suit the target.
    """
    row = student_row(architecture)
    modality = modality_of(data.train.target)
    if row.dense:
        require_dense(loss_of(distill))
    wrong = row.front not in (modality.front, ANY_FRONT)
    if wrong or (row.dense and modality.motion is None):
        allowed = ", ".join(
            name
            for name, one in STUDENTS.items()
            if one.front == modality.front and (modality.motion or not one.dense)
        )
        raise ConfigError(
            f"student.architecture={architecture!r} does not take the targets of"
            f" data.name={data.name!r}, which are {modality.nouns}. Allowed: {allowed}."
        )


def require_first_weights(named: StudentConfig) -> None:
    """Refuse to hold weights that are random; what code of a user's own makes is not known.

    Raises:
        ConfigError: With what has first weights.
    """
    row = student_row(named.architecture)
    known = bool(row.weights_of or named.path or named.weights)
    open_to_us = row.front != ANY_FRONT or is_backbone(named.architecture)
    if named.trainable == LAST and open_to_us and not known:
        raise ConfigError(
            f"student.trainable={named.trainable!r} leaves most weights of a student untrained, and those of"
            f" student.architecture={named.architecture!r} start as random numbers. Set student.path to a"
            " file from `edgecmd warm-start`, or use lite0-s; for timm: and torchvision: set"
            " student.weights."
        )


def load_first_weights(student: Student, path: Path, architecture: str) -> None:
    """Put the weights of a file into ``student``.

    Raises:
        DataError: The file is missing or holds another student.
    """
    first = load_student(path, like=architecture).state_dict()
    own = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    if {name: tuple(value.shape) for name, value in first.items()} != own:
        raise DataError(
            f"student.path={str(path)!r} does not hold the student that"
            f" student.architecture={architecture!r} makes for this data. Make one with `edgecmd warm-start`"
            " and the same settings."
        )
    student.load_state_dict(first)


def require_same_clients(run: Run) -> None:
    """Refuse ledgers of ``privacy.ledger_dir`` that count other pairs than the clients of this run hold.

    A client's ledger says what was spent on the pairs that it held then. Dealt anew, a pair would bring
    what it has spent into a ledger that does not know of it.

    Raises:
        PrivacyError: The folder was begun with pairs dealt otherwise.
    """
    if not run.privacy.ledger_dir:
        return
    file, present = run.ledger_folder / "clients.sha256", run.holdings_digest
    try:
        begun = file.read_text(encoding="ascii").strip() if file.exists() else ""
        if not begun:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, present)
    except OSError as error:
        raise PrivacyError(
            f"{file} cannot be read or written: {error.strerror}. Set privacy.ledger_dir to a folder that"
            " this user may write to.",
            code="ledger",
        ) from error
    if begun not in ("", present):
        raise PrivacyError(
            f"privacy.ledger_dir={run.privacy.ledger_dir!r} counts pairs that were divided among clients"
            " differently: data, seed, federation.num_clients and federation.partition (with its alpha)"
            " must be those of the first run there. Use the same settings, or another folder for pairs that"
            " are in no ledger there.",
            code="ledger",
        )
