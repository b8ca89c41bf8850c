"""What the purity probe refuses and what it lets pass, by behaviour."""

import contextlib
import copy
from collections import deque
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd import losses
from edgecmd.core.errors import PrivacyError
from edgecmd.losses import baselines, loss_of
from edgecmd.losses.check import impure_rows
from edgecmd.models.students import STUDENTS, build_student
from edgecmd.privacy.step.purity import require_pure, require_pure_loss
from edgecmd.privacy.step.units import unit_loss
from edgecmd.settings import DistillConfig

CHANNELS, SIDE, DIM = 2, 16, 6
CALLS = [0]


def student_with(*layers: nn.Module) -> nn.Module:
    """A convolution, the layers in question on (B, 4, 8, 8), and an embedding."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 3, stride=2, padding=1), *layers, nn.Flatten(), nn.Linear(256, DIM)
    )


class Frozen(nn.BatchNorm2d):
    """Batch normalisation that a user froze: its parameters have no gradient, its mode is still training."""

    def __init__(self) -> None:
        super().__init__(4)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class BufferQueue(nn.Module):
    """Adds the mean of the last batch, kept in a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4, 8, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found = x + self.last
        self.last = x.detach().mean(0)
        return found


class ListQueue(nn.Module):
    """Remembers batches in a plain list and uses them only when it is full."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, deque(maxlen=size)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().mean(0))
        return x + self.seen[0] if len(self.seen) == self.size else x


class GlobalCounter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        CALLS[0] += 1
        return x * (1.0 + 0.01 * CALLS[0])


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def cleaned_and_centred(x: Tensor) -> Tensor:
    return x - torch.nan_to_num(x).mean(0)


def hard_negative(x: Tensor) -> Tensor:
    """Mixes only through the batch's largest number; NaN is cleaned away."""
    return x - torch.nan_to_num(x, nan=-1e9).amax(dim=0)


IMPURE = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm without parameters": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch norm without either": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "batch norm with cumulative mean": lambda: nn.BatchNorm2d(4, momentum=None),
    "frozen batch norm": Frozen,
    "hidden batch norm": lambda: nn.Sequential(nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4, affine=False))),
    "synchronised batch statistics by hand": lambda: Function(lambda x: x / (x.var(0) + 1.0)),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "centring": lambda: Function(centred),
    "centring after NaN is removed": lambda: Function(cleaned_and_centred),
    "largest of the batch": lambda: Function(hard_negative),
    "previous row": lambda: Function(lambda x: x + 0.1 * x.roll(1, dims=0)),
    "size of the batch": lambda: Function(lambda x: x / len(x)),
    "place in the batch": lambda: Function(lambda x: x + torch.arange(len(x))[:, None, None, None]),
    "queue in a buffer": BufferQueue,
    "queue of one batch": lambda: ListQueue(2),
    "queue that is not yet full": lambda: ListQueue(1000),
    "global counter": GlobalCounter,
    "not finite": lambda: Function(lambda x: x / 0.0),
}


@pytest.mark.parametrize("name", IMPURE)
def test_a_student_that_mixes_or_remembers_is_refused(name: str) -> None:
    with pytest.raises(PrivacyError, match="GroupNorm.*privacy.mechanism='client'"):
        require_pure(student_with(IMPURE[name]()), in_channels=CHANNELS, image_size=SIDE)


PURE = {
    "nothing": nn.Identity,
    "group norm": lambda: nn.GroupNorm(2, 4),
    "layer norm": lambda: nn.LayerNorm([4, 8, 8]),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "dropout": lambda: nn.Dropout(0.5),
    "dropout of channels": lambda: nn.Sequential(nn.Dropout2d(0.5), nn.AlphaDropout(0.3)),
    "standardised images": lambda: Function(
        lambda x: (x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True)
    ),
    "batch norm that evaluates": lambda: Evaluating(),
}


class Evaluating(nn.BatchNorm2d):
    """Fixed statistics in every mode: a scale and a shift of each channel."""

    def __init__(self) -> None:
        super().__init__(4)

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


@pytest.mark.parametrize("name", PURE)
def test_a_student_that_looks_at_each_image_alone_passes(name: str) -> None:
    require_pure(student_with(PURE[name]()), in_channels=CHANNELS, image_size=SIDE)


@pytest.mark.parametrize("architecture", [name for name in STUDENTS if not name.endswith("1m")])
def test_the_students_of_edgecmd_pass(architecture: str) -> None:
    # A student of recordings or strings takes one long line.
    channels, size = (CHANNELS, SIDE) if STUDENTS[architecture].front == "none" else (1, (1, 2048))
    student = build_student(
        architecture, in_channels=channels, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    )
    require_pure(student, in_channels=channels, image_size=size)


@pytest.mark.parametrize(
    "layer",
    [nn.Identity, lambda: nn.BatchNorm2d(4), BufferQueue, lambda: nn.Dropout(0.5), lambda: ListQueue(2)],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_probe_leaves_no_trace(layer: Callable[[], nn.Module], training: bool) -> None:
    student = student_with(layer(), nn.Sequential(nn.ReLU()).eval()).train(training)
    student[2].eval()
    before, modes = copy.deepcopy(student), [module.training for module in student.modules()]
    global_state = torch.get_rng_state()
    with contextlib.suppress(PrivacyError):
        require_pure(student, in_channels=CHANNELS, image_size=SIDE)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert [module.training for module in student.modules()] == modes
    for (_, old), (_, new) in zip(before.named_parameters(), student.named_parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
    for (_, old), (_, new) in zip(before.named_buffers(), student.named_buffers(), strict=True):
        assert torch.equal(old, new)
    assert not any(isinstance(one, ListQueue) and one.seen for one in student.modules())


def features(seed: int, num: int = 6) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed))


IN_BATCH = {
    "cmc": lambda s, t: losses.cmc(s, t, temperature=0.1),
    "cmd": lambda s, t: losses.cmd(s, t, temperature=0.1, teacher_temperature=0.1),
    "cmc-groups over a batch": lambda s, t: losses.cmc_groups(s, t, features(9), temperature=0.1),
    "simclr": lambda s, t: baselines.nt_xent(s, t, temperature=0.1),
    "crd": baselines.crd,
    "socket": lambda s, t: baselines.socket(s, t, features(9)),
    "dark": lambda s, t: baselines.dark(s, t, temperature=0.1, teacher_temperature=0.1, off_diagonal=2.0),
    "clip-rd": lambda s, t: baselines.clip_rd(s, t, temperature=0.1, teacher_temperature=0.1),
    "mean of anything": lambda s, t: (s - t).square().mean().expand(len(s)),
}
ALONE = {
    "cmc-anchored": lambda s, t: losses.cmc_anchored(s, t, features(9), temperature=0.1),
    "cmd-anchored": lambda s, t: losses.cmd_anchored(
        s, t, features(9), temperature=0.1, teacher_temperature=0.1
    ),
    "seed": lambda s, t: baselines.seed(s, t, features(9)),
    "cosine": baselines.cosine,
    "l2": baselines.l2,
    "fd-cmkd": baselines.fd_cmkd,
}


@pytest.mark.parametrize("name", IN_BATCH)
def test_losses_over_the_batch_leak_from_every_row(name: str) -> None:
    assert impure_rows(IN_BATCH[name], features(0), features(1)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ALONE)
def test_losses_of_a_pair_and_public_anchors_leak_nothing(name: str) -> None:
    assert impure_rows(ALONE[name], features(0), features(1)) == []


def test_only_the_row_that_is_looked_at_leaks() -> None:
    def first_is_shared(x: Tensor) -> Tensor:
        return x + x[:1]

    assert impure_rows(first_is_shared, features(0, 4)) == [0]


def test_one_row_cannot_show_mixing() -> None:
    with pytest.raises(PrivacyError, match="rows=1"):
        impure_rows(lambda x: x, features(0, 1))


@pytest.mark.parametrize(
    "name", ["cmc-anchored", "cmd-anchored", "cmc+cmd-anchored", "cosine", "l2", "fd-cmkd", "cmc-groups"]
)
def test_losses_of_a_unit_pass(name: str) -> None:
    require_pure_loss(unit_loss(loss_of(DistillConfig(loss=name)), features(9)), embedding_dim=DIM)


def test_a_loss_with_a_memory_bank_is_refused() -> None:
    bank = [torch.zeros(2, DIM)]

    def remembering(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        logits = functional.normalize(student, dim=1) @ torch.cat([teacher, bank[0]]).T
        bank[0] = teacher
        return -logits.log_softmax(dim=1).diagonal().mean()

    with pytest.raises(PrivacyError, match="remembers"):
        require_pure_loss(remembering, embedding_dim=DIM)
