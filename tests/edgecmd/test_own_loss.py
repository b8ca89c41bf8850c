"""A loss that edgecmd does not know, in one file: as an object, and by name through a whole run."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from edgecmd import losses
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.losses import LOSSES, Loss, check_loss, loss_of, name_of
from edgecmd.models.students import build_student
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer
from server.simulate import simulate
from tests.command_line import run
from tests.tiny_federation import plan_of, run_of

DOCS = Path(__file__).parents[2] / "docs"
NAME = "own_margin:Margin"


@pytest.fixture(scope="module")
def example() -> str:
    """The loss of docs/extending.md, as it stands there."""
    (found,) = re.findall(
        r"```python\n(# own_margin\.py\n.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL
    )
    assert isinstance(found, str)
    return found


@pytest.fixture
def margin(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example in the folder that edgecmd is started in."""
    (tmp_path / "own_margin.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_margin", raising=False)
    loss_of(DistillConfig(loss=NAME))
    return sys.modules["own_margin"]


def test_an_object_is_what_a_student_learns_by(margin: ModuleType) -> None:
    coins = torch.Generator().manual_seed(0)
    student = build_student("ws-50k", in_channels=1, embedding_dim=8, generator=coins)
    data = LocalData(
        target=torch.randn(12, 1, 16, 16, generator=coins), teacher=torch.randn(12, 8, generator=coins)
    )
    anchors, config = torch.randn(5, 8, generator=coins), DistillConfig(batch_size=12, augment=0.0)
    found = []
    for index in range(6):
        place = Place(seed=0, round_index=index + 1, client=0, first_step=5 * index, total_steps=30)
        optimizer = make_optimizer(student, config)
        loss = margin.Margin(temperature=0.3)
        found.append(
            distil(student, data, anchors, config, loss=loss, num_steps=5, place=place, optimizer=optimizer)
        )
    assert found[-1] < 0.6 * found[0]


def test_its_value_by_hand(margin: ModuleType) -> None:
    """One pair at cosine 0.6, one anchor at 0.8: softplus((0.8 - 0.6 + 0.2) / 0.4) = log(1 + e)."""
    student, teacher, anchor = (torch.tensor([row]) for row in ([3.0, 4.0], [5.0, 0.0], [0.0, 1.0]))
    value = margin.Margin(temperature=0.4, margin=0.2)(student, teacher, anchor)
    assert value.tolist() == pytest.approx([1.3132616875182228])


def test_its_numbers_come_from_the_settings(margin: ModuleType) -> None:
    made = loss_of(DistillConfig(loss=NAME, temperature=0.7))
    assert (type(made), made.temperature, made.margin) == (margin.Margin, 0.7, 0.2)  # type: ignore[attr-defined]
    assert name_of(made) == "Margin"
    assert name_of(loss_of(DistillConfig(loss="cmc"))) == "cmc"


def test_a_whole_run_and_its_evaluation_in_any_process(
    margin: ModuleType, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert margin.Margin.needs_anchors
    words = [*settings(tiny), f"distill.loss={NAME}"]
    assert run(monkeypatch, "run", *sets(words), "--no-baselines") == 0, capsys.readouterr().err
    one = (Path(tiny.out) / "tiny" / "student.safetensors").read_bytes()
    table = json.loads((Path(tiny.out) / "tiny" / "evaluation.json").read_text())
    assert 0 <= table["student"]["retrieval"]["recall@1"] <= 1
    assert table["chance_loss"] is None
    assert (Path(tiny.out) / "tiny" / "export" / "student.onnx").exists()
    assert NAME in (Path(tiny.out) / "tiny" / "report.html").read_text()
    others = [*words, "name=two", "federation.num_workers=2"]
    assert run(monkeypatch, "simulate", *sets(others)) == 0
    assert (Path(tiny.out) / "two" / "student.safetensors").read_bytes() == one


def test_a_private_run_and_its_audit(
    margin: ModuleType, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not margin.Margin.couples_pairs
    words = [*settings(tiny), f"distill.loss={NAME}", "privacy.mechanism=anchors"]
    assert run(monkeypatch, "simulate", *sets(words)) == 0, capsys.readouterr().err
    folder = Path(tiny.out) / "tiny"
    told = json.loads((folder / "privacy.json").read_text())
    assert (told["loss"], told["mechanism"], told["sensitivity"]) == (NAME, "anchors", 1.0)
    assert 0 < told["epsilon"] <= 8.0
    assert run(monkeypatch, "audit", "check", str(folder), "--tries", "6", "--pairs", "4") == 0


def test_an_audit_takes_the_class(
    margin: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not margin.Margin.couples_pairs
    words = ["--pairs", "16", "--tries", "3", "--temperature", "0.2", "--json"]
    small = ["--set", "student.architecture=gn-50k", "--set", "data.image_size=16"]
    for form in ([], ["--unit-loss"]):
        assert run(monkeypatch, "audit", "check", "--loss", NAME, *form, *words, *small) == 0
        found = {one["quantity"]: one for one in json.loads(capsys.readouterr().out)[:3]}
        assert 0 < found["sensitivity"]["measured"] <= 1.0


def settings(tiny: RunConfig) -> list[str]:
    return [
        f"out={tiny.out}",
        "name=tiny",
        "data.name=folder",
        f"data.path={tiny.data.path}",
        "data.image_size=16",
        "data.strict=false",
        f"teacher.path={tiny.teacher.path}",
        "student.architecture=gn-50k",
        "distill.batch_size=8",
        "distill.num_anchors=16",
        "federation.num_clients=4",
        "federation.num_rounds=2",
        "federation.local_steps=2",
        "evaluate.every_rounds=0",
        "evaluate.num_labels=[1]",
        "evaluate.num_draws=2",
    ]


def sets(words: list[str]) -> list[str]:
    return [word for one in words for word in ("--set", one)]


# What is refused, whatever it is used for.


class Alone(Loss):
    """Sound: the base of the broken ones below."""

    couples_pairs = False

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        return losses.baselines.l2(student, teacher)


def made(change: Callable[[Tensor, Tensor, Tensor], object], **flags: object) -> Loss:
    """A loss of one line."""
    broken = type("Broken", (Alone,), {"__call__": lambda _, *tensors: change(*tensors), **flags})
    return broken()  # type: ignore[no-any-return]


class Fading(Alone):
    """Infinite at the end of a run."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share

    def at(self, share: float) -> "Fading":
        return Fading(share)

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        return super().__call__(student, teacher, anchors) / torch.tensor(1.0 - self.share)


def raises(*_: object) -> Tensor:
    raise RuntimeError("a reason\n  of its own")


def raises_on_nan(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    if not bool(torch.isfinite(student).all()):
        raise ValueError("a bad pair")
    return losses.baselines.l2(student, teacher)


def mixes_gradient(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    """The value of `l2`, and the gradient of the contrast in the batch."""
    contrast = losses.cmc(student, teacher, temperature=0.1)
    return losses.baselines.l2(student, teacher).detach() + (contrast - contrast.detach()).nan_to_num()


QUEUE: list[Tensor] = []


def remembers(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
    QUEUE.append(student.detach())
    return losses.baselines.l2(student, teacher) + len(QUEUE)


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "no loss": (lambda: 3, "is of type int, not an edgecmd.losses.Loss"),
    "a function": (lambda: losses.baselines.l2, "is of type function, not an edgecmd"),
    "flag": (lambda: made(losses.baselines.l2, dense="yes"), "dense='yes'. Allowed: True, False"),
    "views": (lambda: made(losses.baselines.l2, num_views=0), "num_views=0. Allowed: whole numbers from 1"),
    "signature": (lambda: made(lambda s: s), "fails on tensors of shape .*Its signature is loss"),
    "raises": (lambda: made(raises), "RuntimeError: a reason of its own. Its signature"),
    "mean": (lambda: made(lambda s, t, a: (s - t).mean()), "allowed is a tensor of shape .5,., one value"),
    "a number": (lambda: made(lambda s, t, a: 1.0), "returned a value of type float"),
    "nan": (lambda: made(lambda s, t, a: s.sum(1) * float("nan")), "is not finite for ordinary"),
    "no gradient": (lambda: made(lambda s, t, a: s.detach().sum(1)), "has no gradient at the student"),
    "zero gradient": (lambda: made(lambda s, t, a: (0 * s).sum(1)), "has no gradient at the student"),
    "root of zero": (lambda: made(lambda s, t, a: (s - s).norm(dim=1) + (0 * s).sum(1).sqrt()), "not finite"),
    "random": (
        lambda: made(lambda s, t, a: s.sum(1) * torch.rand(())),
        "different values for the same pairs",
    ),
    "memory": (lambda: made(remembers), "different values for the same pairs the second time"),
    "in the batch": (
        lambda: made(lambda s, t, a: losses.cmc(s, t, temperature=0.1)),
        "says couples_pairs=False, but changing one pair changes the value and the gradient",
    ),
    "by its gradient": (lambda: made(mixes_gradient), "changing one pair changes the gradient of others"),
    "by the size": (lambda: made(lambda s, t, a: s.sum(1) / len(s)), "value in a batch of another size"),
    "stops at nan": (lambda: made(raises_on_nan), "fails where one pair is NaN or huge.*ValueError: a bad"),
    "another later": (
        lambda: made(lambda s, t, a: s.sum(1), at=lambda own, share: losses.L2() if share else own),
        r"has at\(0.5\) of type L2; allowed is a Broken",
    ),
    "none later": (
        lambda: made(lambda s, t, a: s.sum(1), at=lambda *_: None),
        r"has at\(0\) of type NoneType; allowed is a Broken",
    ),
    "no number later": (Fading, "is not finite for ordinary"),
    "raises later": (
        lambda: made(lambda s, t, a: s.sum(1), at=raises),
        r"at\(0\) raised RuntimeError: a reason of its own. Fix that code",
    ),
    "padding": (
        lambda: type(
            "Padded",
            (Alone,),
            {"has_buckets": True, "of_unit": lambda _, s, t, mask, a: (s - t).square().sum()},
        )(),
        "changes with rows outside its mask",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_no_sound_loss_is_refused(fault: str) -> None:
    make, message = BROKEN[fault]
    with pytest.raises(ConfigError, match=message):
        check_loss(make())


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_of_the_table_are_what_they_say(name: str) -> None:
    loss = loss_of(DistillConfig(loss=name))
    assert check_loss(loss) is loss
    assert type(loss).text


def test_what_couples_pairs_says_so_truly() -> None:
    """Each loss of the table that says it couples pairs does: said of another it would be privacy forgone."""
    for name, row in LOSSES.items():
        if row.couples_pairs:
            apart = type("Apart", (row,), {"couples_pairs": False})
            with pytest.raises(ConfigError, match="says couples_pairs=False"):
                check_loss(apart(), called=name)


# What is refused under privacy.

PRIVATE = """
import torch
from edgecmd.losses import Loss, cmc, unit
class InBatch(Loss):
    needs_anchors = True
    def __call__(self, student, teacher, anchors):
        return cmc(student, teacher, temperature=0.1)
class Plain(Loss):
    couples_pairs = False
    def __call__(self, student, teacher, anchors):
        return (unit(student) - unit(teacher)).square().sum(dim=1)
class Annealed(Plain):
    def at(self, share):
        return self
class Branching(Plain):
    needs_anchors = True
    def __call__(self, student, teacher, anchors):
        value = super().__call__(student, teacher, anchors)
        return value if float(value.detach().nan_to_num().sum()) > 1e9 else 2 * value
class Views(Plain):
    num_views = 2
    def __call__(self, student, teacher, anchors):
        return super().__call__(student[0], teacher, anchors) + super().__call__(student[1], teacher, anchors)
class Lying(InBatch):
    couples_pairs = False
class Late(Plain):
    needs_anchors, seen = True, None
    def __call__(self, student, teacher, anchors):
        return super().__call__(student, teacher, anchors)
    def of_unit(self, student, teacher, mask, anchors):
        value = super().of_unit(student, teacher, mask, anchors)
        late = self.seen
        type(self).seen = 1.0 if late is None else late + 1.0
        return value * type(self).seen
"""


@pytest.fixture
def own_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_private.py").write_text(PRIVATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_private", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "mechanism", "engine", "message"),
    [
        (
            "InBatch",
            "anchors",
            "vmap",
            "cannot be made private for each pair.*508 times the clip.*cmc-anchored",
        ),
        ("InBatch", "groups", "vmap", "cannot be made private for each pair.*'cmc-groups'"),
        ("Plain", "anchors", "vmap", "belongs to privacy.mechanism='cosine', not to 'anchors'"),
        ("Annealed", "cosine", "vmap", "changes over the run, and no mechanism supports that"),
        ("Plain", "groups", "vmap", "belongs to privacy.mechanism='cosine'"),
        (
            "Views",
            "cosine",
            "vmap",
            "looks at 2 views of a target at once, and no mechanism supports that",
        ),
        ("Branching", "anchors", "vmap", "cannot be run by torch.func.vmap.*no if on a value"),
        ("Plain", "cosine", "loop", "privacy.engine='loop' runs .*could decide whether a step fails"),
        ("Late", "anchors", "vmap", "remembers earlier pairs"),
    ],
)
def test_what_clipping_bounds_nothing_of_is_refused(
    name: str, mechanism: str, engine: str, message: str, own_private: Path, tiny: RunConfig
) -> None:
    assert own_private.is_dir()
    config = replace(
        tiny,
        distill=replace(tiny.distill, loss=f"own_private:{name}"),
        privacy=replace(tiny.privacy, mechanism=mechanism, engine=engine),
    )
    with pytest.raises(PrivacyError, match=message):
        plan_of(config)
    with pytest.raises(PrivacyError, match=message):
        simulate(run_of(config))


def test_a_false_word_about_pairs_is_found_before_anything_is_trained(
    own_private: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert own_private.is_dir()
    words = [*settings(tiny), "distill.loss=own_private:Lying", "privacy.mechanism=anchors"]
    assert run(monkeypatch, "run", *sets(words)) == 2
    said = capsys.readouterr().err
    assert "says couples_pairs=False, but changing one pair changes the value" in said
    assert "Traceback" not in said
    assert not (Path(tiny.out) / "tiny").exists()


def test_whole_clients_may_be_protected_whatever_the_loss(own_private: Path, tiny: RunConfig) -> None:
    assert own_private.is_dir()
    distill = replace(tiny.distill, loss="own_private:InBatch")
    plan = plan_of(replace(tiny, distill=distill, privacy=replace(tiny.privacy, mechanism="client")))
    assert plan is not None
    assert plan.loss == "own_private:InBatch"
