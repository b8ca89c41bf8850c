"""The losses that settings name: one row, one class, each.

A field of a class is filled from the number of the same name in the section ``distill``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgecmd.core.errors import choose
from edgecmd.core.own_code import call_factory, is_own
from edgecmd.losses import baselines, contrastive
from edgecmd.losses.check import check_loss
from edgecmd.losses.contrastive import Anchors, Embeddings, PerExample
from edgecmd.losses.loss import Loss
from edgecmd.settings import DistillConfig


@dataclass(frozen=True, kw_only=True)
class CMC(Loss):
    """`edgecmd.losses.cmc`: contrast with the other pairs of the batch."""

    family, text = "paper", "the contrast with the batch's other pairs"
    temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return contrastive.cmc(student, teacher, temperature=self.temperature)

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log B``."""
        return math.log(batch_size)


@dataclass(frozen=True, kw_only=True)
class CMD(Loss):
    """`edgecmd.losses.cmd`: relations within the batch, which leave the student's space free to turn."""

    family, text, aligns = "paper", "the relations within the batch", False
    temperature: float = 0.1
    teacher_temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return contrastive.cmd(
            student, teacher, temperature=self.temperature, teacher_temperature=self.teacher_temperature
        )

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log(B - 1)``."""
        return math.log(batch_size - 1)


@dataclass(frozen=True, kw_only=True)
class CMCAnchored(Loss):
    """`edgecmd.losses.cmc_anchored`: contrast with public anchors."""

    family, text = "paper", "the contrast with public anchors"
    needs_anchors, couples_pairs = True, False
    temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return contrastive.cmc_anchored(student, teacher, anchors, temperature=self.temperature)

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log(K + 1)``."""
        return math.log(num_anchors + 1)


@dataclass(frozen=True, kw_only=True)
class CMDAnchored(Loss):
    """`edgecmd.losses.cmd_anchored`: relations to public anchors."""

    family, text = "paper", "the relations to public anchors"
    needs_anchors, couples_pairs = True, False
    temperature: float = 0.1
    teacher_temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return contrastive.cmd_anchored(
            student,
            teacher,
            anchors,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
        )

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log K``."""
        return math.log(num_anchors)


@dataclass(frozen=True, kw_only=True)
class _Sum(Loss):
    """A contrast and ``cmd_weight`` times the relations."""

    temperature: float = 0.1
    teacher_temperature: float = 0.1
    cmd_weight: float = 1.0

    def _parts(self) -> tuple[Loss, Loss]:
        """Contrast and relations."""
        raise NotImplementedError

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        contrast, relations = (part(student, teacher, anchors) for part in self._parts())
        return contrast + self.cmd_weight * relations

    def of_unit(
        self, student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " rows"], anchors: Anchors
    ) -> Float[Tensor, ""]:
        """The sum of the means of both, (): the mean of the sums rounds otherwise."""
        contrast, relations = (part.of_unit(student, teacher, mask, anchors) for part in self._parts())
        return contrast + self.cmd_weight * relations

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float | None:
        """That of the contrast, and ``cmd_weight`` times that of the relations."""
        sizes = {"batch_size": batch_size, "num_anchors": num_anchors}
        contrast, relations = (part.chance_level(**sizes) for part in self._parts())
        return None if contrast is None or relations is None else contrast + self.cmd_weight * relations


@dataclass(frozen=True, kw_only=True)
class CMCAndCMD(_Sum):
    """`CMC` and ``cmd_weight`` times `CMD`."""

    family, text = "paper", "contrast and relations within the batch"

    def _parts(self) -> tuple[Loss, Loss]:
        return CMC(temperature=self.temperature), CMD(
            temperature=self.temperature, teacher_temperature=self.teacher_temperature
        )


@dataclass(frozen=True, kw_only=True)
class CMCAndCMDAnchored(_Sum):
    """`CMCAnchored` and ``cmd_weight`` times `CMDAnchored`."""

    family, text = "paper", "contrast with and relations to public anchors"
    needs_anchors, couples_pairs = True, False

    def _parts(self) -> tuple[Loss, Loss]:
        return CMCAnchored(temperature=self.temperature), CMDAnchored(
            temperature=self.temperature, teacher_temperature=self.teacher_temperature
        )


@dataclass(frozen=True, kw_only=True)
class CMCGroups(Loss):
    """`edgecmd.losses.cmc_groups`: contrast with a bucket's other pairs and with public anchors."""

    text = "the contrast with the batch's other pairs and public anchors"
    needs_anchors, has_buckets = True, True
    temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return contrastive.cmc_groups(student, teacher, anchors, temperature=self.temperature)

    def of_unit(
        self, student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " rows"], anchors: Anchors
    ) -> Float[Tensor, ""]:
        """`edgecmd.losses.cmc_bucket`: the unit is a bucket."""
        return contrastive.cmc_bucket(student, teacher, mask, anchors, temperature=self.temperature)

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log(B + K)``."""
        return math.log(batch_size + num_anchors)


@dataclass(frozen=True, kw_only=True)
class GCL(Loss):
    """`edgecmd.losses.gcl`: contrast within a bucket, whose rows may be several views of each pair."""

    text, has_buckets = "the contrast within the batch, views of other pairs as negatives", True
    temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        every = torch.ones(len(teacher), dtype=torch.bool, device=teacher.device)
        return contrastive.gcl(student, teacher, every, temperature=self.temperature)

    def of_unit(
        self, student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " rows"], anchors: Anchors
    ) -> Float[Tensor, ""]:
        """The sum over the real rows of a bucket, which is the unit."""
        return contrastive.gcl(student, teacher, mask, temperature=self.temperature, whole=True).sum()

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log B``."""
        return math.log(batch_size)


@dataclass(frozen=True, kw_only=True)
class CMCLogits(Loss):
    """`edgecmd.losses.cmc_logits`: the contrast of Logit-DP, at a temperature of its own."""

    text = "the contrast with the batch's other pairs at temperature 1"

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        every = torch.ones(len(teacher), dtype=torch.bool, device=teacher.device)
        return contrastive.cmc_logits(student, teacher, every)

    def of_unit(
        self, student: Embeddings, teacher: Embeddings, mask: Bool[Tensor, " rows"], anchors: Anchors
    ) -> Float[Tensor, ""]:
        """The sum over a whole sample, which is the unit."""
        return contrastive.cmc_logits(student, teacher, mask).sum()

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log B``."""
        return math.log(batch_size)


@dataclass(frozen=True, kw_only=True)
class Cosine(Loss):
    """`edgecmd.losses.baselines.cosine`: feature regression."""

    text, couples_pairs = "the cosine to the teacher's feature as loss", False

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return baselines.cosine(student, teacher)


@dataclass(frozen=True, kw_only=True)
class L2(Loss):
    """`edgecmd.losses.baselines.l2`: the squared distance to the teacher's feature."""

    family, text = "others", "the squared distance to the teacher's feature as loss"
    couples_pairs = False

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return baselines.l2(student, teacher)


@dataclass(frozen=True, kw_only=True)
class SOCKET(Loss):
    """`edgecmd.losses.baselines.socket`."""

    family, text, needs_anchors = "others", "the label-free terms of SOCKET", True

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return baselines.socket(student, teacher, anchors)


@dataclass(frozen=True, kw_only=True)
class SEED(Loss):
    """`edgecmd.losses.baselines.seed`, at its authors' temperatures, but where the student's is given."""

    family, text, may_be_private = "others", "SEED, public anchors as its queue", False
    needs_anchors, couples_pairs = True, False
    baseline_temperature: float = 0.0

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        temperature = self.baseline_temperature or baselines.SEED_TEMPERATURE
        return baselines.seed(student, teacher, anchors, temperature=temperature)

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log(K + 1)``."""
        return math.log(num_anchors + 1)


@dataclass(frozen=True, kw_only=True)
class CRD(Loss):
    """`edgecmd.losses.baselines.crd`, at its authors' temperature, but where one is given."""

    family, text = "others", "CRD, negatives from the batch"
    baseline_temperature: float = 0.0

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        temperature = self.baseline_temperature or baselines.CRD_TEMPERATURE
        return baselines.crd(student, teacher, temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class DARK(Loss):
    """`edgecmd.losses.baselines.dark`, its weight off the diagonal in a straight line over the run."""

    family, text = "others", "DARK: the teacher's relations, imitated first and repelled later"
    temperature: float = 0.1
    teacher_temperature: float = 0.1
    first_off_diagonal: float = baselines.DARK_FIRST
    last_off_diagonal: float = baselines.DARK_LAST
    share: float = 0.0

    def at(self, share: float) -> Loss:
        """The same with the weight at ``share`` of the run."""
        return replace(self, share=share)

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        fallen = self.share * (self.first_off_diagonal - self.last_off_diagonal)
        return baselines.dark(
            student,
            teacher,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            off_diagonal=self.first_off_diagonal - fallen,
        )


@dataclass(frozen=True, kw_only=True)
class CLIPRD(Loss):
    """`edgecmd.losses.baselines.clip_rd`."""

    family, text = "others", "CLIP-RD: contrast, features and relations at its authors' weights"
    temperature: float = 0.1
    teacher_temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return baselines.clip_rd(
            student, teacher, temperature=self.temperature, teacher_temperature=self.teacher_temperature
        )


@dataclass(frozen=True, kw_only=True)
class FDCMKD(Loss):
    """`edgecmd.losses.baselines.fd_cmkd`."""

    family, text = "others", "FD-CMKD: low frequencies of the teacher's feature closely, high ones roughly"
    couples_pairs = False

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        return baselines.fd_cmkd(student, teacher)


@dataclass(frozen=True, kw_only=True)
class SimCLR(Loss):
    """`edgecmd.losses.baselines.nt_xent` over two views of a target; without a teacher."""

    family, text = "others", "SimCLR on the target alone, without a teacher; it has no retrieval"
    num_views, relative_cost = 2, 1.9
    dense = uses_teacher = aligns = False
    temperature: float = 0.1

    def __call__(self, student: Tensor, teacher: Embeddings, anchors: Anchors) -> PerExample:
        first, second = student
        return baselines.nt_xent(first, second, temperature=self.temperature)

    def chance_level(self, *, batch_size: int, num_anchors: int) -> float:
        """``log(2B - 1)``."""
        return math.log(2 * batch_size - 1)


LOSSES: dict[str, type[Loss]] = {
    "cmc": CMC,
    "cmd": CMD,
    "cmc+cmd": CMCAndCMD,
    "cmc-anchored": CMCAnchored,
    "cmd-anchored": CMDAnchored,
    "cmc+cmd-anchored": CMCAndCMDAnchored,
    "cmc-groups": CMCGroups,
    "gcl": GCL,
    "cmc-logits": CMCLogits,
    "cosine": Cosine,
    "l2": L2,
    "socket": SOCKET,
    "seed": SEED,
    "crd": CRD,
    "dark": DARK,
    "clip-rd": CLIPRD,
    "fd-cmkd": FDCMKD,
    "simclr": SimCLR,
}


def name_of(loss: Loss) -> str:
    """Its name in settings; of a loss that is in no table, that of its class."""
    return next((name for name, row in LOSSES.items() if type(loss) is row), type(loss).__name__)


def loss_of(settings: DistillConfig) -> Loss:
    """The loss that ``distill.loss`` names, with its numbers: a row of `LOSSES`, or a user's own.

    A factory of ``module:factory`` gets those numbers of the section that it has as parameters.

    Raises:
        ConfigError: There is no such row; or the own code cannot be loaded, or is not a loss (`check_loss`).
    """
    if is_own(settings.loss):
        return _own(settings.loss, _numbers(settings))
    row = choose("distill.loss", settings.loss, LOSSES)
    known = {one.name for one in fields(row)}  # type: ignore[arg-type]
    return row(**{name: value for name, value in _numbers(settings).items() if name in known})


# A client makes its loss in every round; what was found sound once in this process is not tried again.
_sound: set[tuple[object, ...]] = set()


def _own(text: str, numbers: Mapping[str, Any]) -> Loss:
    made = call_factory("distill.loss", text, offered=numbers)
    known = (type(made), text, *numbers.items())
    if known in _sound and isinstance(made, Loss):
        return made
    loss = check_loss(made, called=f"distill.loss={text!r}")
    _sound.add(known)
    return loss


def _numbers(settings: DistillConfig) -> dict[str, Any]:
    found = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
