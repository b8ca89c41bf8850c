"""A user's own loss and student: found, tried, and caught where one pair moves the others."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgecmd import losses
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED
from edgecmd.audits.static.custom_code import (
    OwnCode,
    anchored_unit_loss,
    check_own_code,
    own_student,
    own_subject,
)
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.experiments.faults.loss_faults import small_subject
from edgecmd.settings import DataConfig, StudentConfig
from tests.tiny_federation import run_of

FEW = Effort(num_tries=5, num_pairs=16, climb_length=1)
SUBJECT = small_subject()


def code(loss: Callable, *, per_unit: bool = False, engine: str = "", **changes: object) -> OwnCode:
    made = OwnCode(
        name="own:loss",
        loss=loss,
        per_unit=per_unit,
        engine=engine or ("vmap" if per_unit else "opacus"),
        clip=0.5,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def anchored(student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
    return losses.cmc_anchored(student, teacher, anchors, temperature=0.1)


def in_batch(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 0.1) -> Tensor:
    return losses.cmc(student, teacher, temperature=temperature)


@pytest.mark.parametrize("engine", ["opacus", "opacus-ghost"])
def test_an_in_batch_loss_is_caught_by_probe_and_search(engine: str) -> None:
    """Sixteen pairs: at most 2 * 16 - 1 C, and the flip pair comes near 2 (16 - 2) C."""
    _, loss, search, nan = check_own_code(code(in_batch, engine=engine), SUBJECT, FEW)
    assert (loss.verdict, search.verdict, nan.verdict) == (CONTRADICTED, CONTRADICTED, INDICATOR)
    assert search.measured is not None
    assert 26 < search.measured <= 31
    assert (search.details["worst_kind"], search.details["clip"]) == ("flip", 0.5)
    assert nan.table()["measured"] is None, "infinite"


@pytest.mark.parametrize("engine", ["opacus", "opacus-ghost"])
def test_a_loss_of_public_anchors_passes(engine: str) -> None:
    found = check_own_code(code(anchored, engine=engine), SUBJECT, FEW)
    assert [one.verdict for one in found] == [NOT_CONTRADICTED] * 3 + [INDICATOR]


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_unit_loss_runs_through_our_own_engines(engine: str) -> None:
    found = check_own_code(code(anchored_unit_loss(0.1), per_unit=True, engine=engine), SUBJECT, FEW)
    assert [one.verdict for one in found] == [NOT_CONTRADICTED] * 3
    assert 0.5 < (found[-1].measured or 0) <= 1.0


def test_the_temperature_is_handed_on() -> None:
    told = []

    def loss(student: Tensor, teacher: Tensor, anchors: Tensor, *, temperature: float) -> Tensor:
        told.append(temperature)
        return losses.cmc_anchored(student, teacher, anchors, temperature=temperature)

    check_own_code(code(loss, temperature=0.25), SUBJECT, FEW)
    assert set(told) == {0.25}


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda s, t, a: in_batch(s, t, a).mean(), ConfigError, r"returned \(\); allowed .* \(4,\)"),
        (lambda s, t, a: s, ConfigError, r"returned \(4, 32\)"),
        (lambda s, t, a: 3.0, ConfigError, "returned float"),
        (lambda s, t: s, ConfigError, "takes 2 positional arguments"),
        (lambda s, t, a: (s @ t).sum(1), ConfigError, "fails on tensors of shape"),
        (lambda s, t, a: (s * t).sum(1) / 0, PrivacyError, "not finite for ordinary"),
        (lambda s, t, a: (s * t).sum(1).detach(), ConfigError, "has no gradient"),
    ],
)
def test_a_loss_outside_the_protocol_is_refused(loss: Callable, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        check_own_code(code(loss), SUBJECT, FEW)


def test_what_an_engine_cannot_take_is_said() -> None:
    def branching(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        return (student * teacher).sum() * (1 if float(student.sum()) > 0 else 2)

    with pytest.raises(ConfigError, match="--engine=loop"):
        check_own_code(code(branching, per_unit=True), SUBJECT, FEW)
    found = check_own_code(code(branching, per_unit=True, engine="loop"), SUBJECT, FEW)
    assert found[-1].verdict == NOT_CONTRADICTED


@pytest.mark.parametrize(("per_unit", "engine"), [(False, "vmap"), (True, "ghost")])
def test_an_engine_of_the_other_kind_is_refused(per_unit: bool, engine: str) -> None:
    with pytest.raises(ConfigError, match=f"--engine='{engine}'|privacy.engine|is unknown"):
        check_own_code(code(anchored, per_unit=per_unit, engine=engine), SUBJECT, FEW)


# Students.

SMALL = RunConfig(data=DataConfig(image_size=16), student=StudentConfig(architecture="ws-50k"))


def normalising() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8, affine=False))


def test_a_student_with_batch_statistics_is_caught() -> None:
    subject = own_subject(
        "test_own_code:normalising", run_of(SMALL), side=16, in_channels=1, embedding_dim=99
    )
    assert (subject.embedding_dim, subject.image_size, subject.name) == (8, 16, "own student")
    found = check_own_code(code(anchored), subject, FEW)
    assert [one.verdict for one in found] == [CONTRADICTED]
    assert "purity of the student" in found[0].name


def test_a_new_student_needs_no_data() -> None:
    subject = own_subject("", run_of(SMALL), side=16, in_channels=3, embedding_dim=12)
    assert subject.anchors.shape == (1024, 12)
    assert subject.student(torch.zeros(2, 3, 16, 16)).shape == (2, 12)
    torch.testing.assert_close(subject.anchors.norm(dim=1), torch.ones(1024))


def number() -> int:
    return 3


def vectors_alone() -> nn.Module:
    return nn.Linear(3, 3)


def maps() -> nn.Module:
    return nn.Conv2d(1, 2, 3)


def sized(size: int) -> nn.Module:
    return nn.Linear(size, size)


def failing() -> nn.Module:
    raise RuntimeError("no weights here")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("number", "of type int, not a torch.nn.Module"),
        ("vectors_alone", "fails on inputs of shape .*--channels and --set data.image_size"),
        ("maps", r"gives \(3, 2, 14, 14\).*allowed is \(batch, features\)"),
        ("sized", "asks for 'size', which edgecmd cannot give"),
        ("failing", "raised RuntimeError: no weights here"),
        ("faling", "Did you mean 'failing'"),
    ],
)
def test_a_factory_of_something_else_is_refused(factory: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_student(f"test_own_code:{factory}", in_channels=1, image_size=16)
