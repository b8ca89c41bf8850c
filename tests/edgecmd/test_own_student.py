"""A student of anyone's own: an object, ``module:factory`` in settings, a row of the table; all the way."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clients.order import device_config
from edgecmd.config.reader import flatten, to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError, EdgecmdError, ExportError, PrivacyError
from edgecmd.core.files import read_json
from edgecmd.losses import loss_of
from edgecmd.models.any_student import student
from edgecmd.models.student_file import load_student, save_student, student_bytes
from edgecmd.models.students import STUDENTS, Architecture, Projected, build_student, student_row
from edgecmd.privacy.refusals import sealed
from edgecmd.settings import PrivacyConfig
from edgecmd.training.distill import Place, distil, freeze_projector, make_optimizer
from tests.command_line import run
from tests.edgecmd.audit.tiny_target import tiny_target
from tests.from_docs import module_of
from tests.tiny_federation import TESTED, run_of, simulate, task_of

SIDE, FEATURES, DIM = 16, 12, 16


class Small(nn.Module):
    """Two convolutions and a mean over places."""

    def __init__(self, in_channels: int = 1, *, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second = nn.Conv2d(8, FEATURES, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm(self.first(image)))
        return torch.relu(self.second(inner)).mean(dim=(2, 3))


def small(in_channels: int) -> nn.Module:
    """What ``test_own_student:small`` names."""
    return Small(in_channels)


def whole(in_channels: int, dim: int) -> nn.Module:
    """As wide as the teacher's feature, so that nothing is put behind it."""
    return nn.Sequential(Small(in_channels), nn.Linear(FEATURES, dim))


def normalised() -> nn.Module:
    """With batch statistics."""
    return Small(norm=True)


def number() -> int:
    """No module at all."""
    return 3


NAMED, WHOLE, NORMALISED = (f"{__name__}:{one}" for one in ("small", "whole", "normalised"))
PRIVATE = PrivacyConfig(mechanism="anchors", epsilon=8.0, delta=1e-5, sampling_rate=0.5)


def with_student(config: RunConfig, architecture: str, *, private: bool = False) -> RunConfig:
    changed = replace(config, student=replace(config.student, architecture=architecture))
    if not private:
        return changed
    return replace(
        changed, privacy=PRIVATE, distill=replace(changed.distill, loss="cmc-anchored", batch_size=2)
    )


@pytest.fixture
def own_row(monkeypatch: pytest.MonkeyPatch) -> str:
    """One row of the table, made up here and known nowhere else."""
    row = Architecture(
        build=lambda *, in_channels, embedding_dim: Small(in_channels),
        text="two convolutions",
        family="small",
    )
    monkeypatch.setitem(STUDENTS, "small-1k", row)
    return "small-1k"


class TestAnObject:
    def test_a_projector_stands_behind_it_where_its_width_is_another(self) -> None:
        made = student(Small(), dim=DIM, size=SIDE)
        assert isinstance(made, Projected)
        assert made(torch.zeros(3, 1, SIDE, SIDE)).shape == (3, DIM)
        freeze_projector(made, frozen=True)
        frozen = {name for name, value in made.named_parameters() if not value.requires_grad}
        assert frozen == {"projector.weight", "projector.bias"}
        alike = student(Small(), dim=FEATURES, size=SIDE)
        assert not any(name.startswith("projector") for name in alike.state_dict())

    def test_nothing_of_it_or_of_torch_s_random_state_is_changed(self) -> None:
        module = Small(norm=True)
        before, coins = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
        student(module, dim=DIM, size=SIDE)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert all(value.grad is None for value in module.parameters())
        assert module.training
        assert torch.equal(torch.random.get_rng_state(), coins)

    def test_it_learns(self, tiny: RunConfig) -> None:
        made = student(Small(), dim=DIM, size=SIDE, seed=1)
        data = task_of(tiny).local_data(np.arange(len(task_of(tiny).data.train)))
        whole_run = replace(tiny, federation=replace(tiny.federation, num_rounds=40, local_steps=5))
        optimizer, anchors = make_optimizer(made, tiny.distill), run_of(tiny).anchors
        plain, values = replace(tiny.distill, augment=0.0), []
        for index in range(1, 41):
            place = Place.of_round(whole_run.federation, seed=0, round_index=index)
            value = distil(
                made, data, anchors, plain, loss=loss_of(plain), num_steps=5, place=place, optimizer=optimizer
            )
            values.append(value)
        assert np.mean(values[-4:]) < np.mean(values[:4]) - 0.1

    def test_its_file_says_that_it_has_no_name_and_is_read_beside_a_module(self, tmp_path: Path) -> None:
        made, path = student(Small(), dim=DIM, size=SIDE), tmp_path / "own.safetensors"
        save_student(made, path)
        with pytest.raises(
            DataError, match=r"an object of the class <Small>.*load_student\(path, like=module"
        ):
            load_student(path)
        other = Small()
        found = load_student(path, like=other)
        image = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found(image), made.eval()(image))
        assert student_bytes(found) == path.read_bytes()
        assert student_bytes(load_student(path, like=made)) == path.read_bytes()
        with pytest.raises(DataError, match=r"does not hold a <Sequential> student"):
            load_student(path, like=nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3)))
        with pytest.raises(ConfigError, match="stands for an object"):
            build_student("<Small>", in_channels=1, embedding_dim=DIM, generator=torch.Generator())

    def test_a_student_is_taken_as_it_is_or_refused(self) -> None:
        made = student("ws-50k", dim=DIM)
        assert student(made, dim=DIM) is made
        with pytest.raises(ConfigError, match=r"ws-50k takes 1 channels and gives 16 .* dim=8"):
            student(made, dim=8)


class TestAFactory:
    def test_its_weights_follow_from_the_seed(self) -> None:
        torch.default_generator.manual_seed(1)
        first = student(NAMED, dim=DIM, size=SIDE, seed=3).state_dict()
        torch.default_generator.manual_seed(2)
        second = student(NAMED, dim=DIM, size=SIDE, seed=3).state_dict()
        other = student(NAMED, dim=DIM, size=SIDE, seed=4).state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        assert not any(torch.equal(value, other[name]) for name, value in first.items() if "weight" in name)

    @pytest.mark.parametrize("named", ["my_students:small", WHOLE])
    def test_it_is_federated_evaluated_and_read_again(
        self, tiny: RunConfig, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from edgecmd.evaluation.evaluate import assess, embedder

        module_of("extending.md", "my_students", tmp_path, monkeypatch)
        config = with_student(tiny, named)
        trained = simulate(config)
        path = Path(config.out) / config.name / "student.safetensors"
        assert student_bytes(trained) == path.read_bytes()
        with pytest.raises(DataError, match=r"never runs by itself.*load_student\(path, like='"):
            load_student(path)
        with pytest.raises(DataError, match="never runs by itself"):
            load_student(path, like=f"{__name__}:other")
        found = load_student(path, like=named)
        assert student_bytes(found) == path.read_bytes()
        first = run_of(config).new_student().state_dict()
        assert not any(torch.equal(value, first[name]) for name, value in found.state_dict().items())
        table = assess(embedder(found, task_of(config)), run_of(config), student=found)
        assert 0.0 <= table["retrieval"]["recall@1"] <= 1.0
        again = replace(config, name="again")
        assert student_bytes(simulate(again)) == path.read_bytes()

    def test_two_workers_import_it_and_give_the_same_bytes(self, tiny: RunConfig) -> None:
        one = with_student(replace(tiny, federation=replace(tiny.federation, num_rounds=1)), NAMED)
        two = replace(one, name="two", federation=replace(one.federation, num_workers=2))
        assert student_bytes(simulate(one)) == student_bytes(simulate(two))

    def test_batch_statistics_are_federated_without_privacy(self, tiny: RunConfig) -> None:
        trained = simulate(with_student(tiny, NORMALISED))
        assert trained.state_dict()["backbone.norm.num_batches_tracked"].dtype == torch.int64
        assert not torch.equal(trained.state_dict()["backbone.norm.running_mean"], torch.zeros(8))

    def test_it_is_trained_privately_and_batch_statistics_are_not(self, tiny: RunConfig) -> None:
        from edgecmd.experiments.run_checks import _student

        config = with_student(tiny, NAMED, private=True)
        first = student_bytes(run_of(config).new_student())
        assert student_bytes(simulate(config)) != first
        assert 0 < read_json(Path(config.out) / config.name / "privacy.json")["epsilon"] <= 8.0
        _student(config, TESTED)
        with pytest.raises(
            PrivacyError, match=r"Projected remembers|running|mixes the pairs of a batch|changes"
        ):
            _student(with_student(tiny, NORMALISED, private=True), TESTED)
        with pytest.raises(EdgecmdError, match="mixes-pairs"):
            simulate(replace(with_student(tiny, NORMALISED, private=True), name="normalised"))

    @pytest.mark.parametrize("private", [False, True])
    def test_the_bundle_gives_what_the_student_gives(
        self, tiny: RunConfig, tmp_path: Path, private: bool
    ) -> None:
        config = with_student(tiny, NAMED, private=private)
        exported(config, tmp_path / "bundle")

    @pytest.mark.parametrize(("named", "private"), [(NAMED, True), (WHOLE, False)])
    def test_its_rounds_are_audited_with_canaries(self, named: str, private: bool) -> None:
        """Whichever layer gives the embedding, the server's attack scores every canary."""
        from edgecmd.audits.one_run.experiment import Effort, collect

        private_words = ("privacy.mechanism=anchors", "privacy.sampling_rate=1.0", "federation.num_rounds=1")
        target = tiny_target(f'student.architecture="{named}"', *(private_words if private else ()))
        found = {
            (one.kind, one.attacker): one for one in collect(target, Effort(num_canaries=24), num_rounds=1)
        }
        server = found["input canaries", "server"]
        assert np.isfinite(server.scores).all()
        assert len(np.unique(server.scores)) == 24
        assert (("gradient canaries", "steps") in found) == private

    def test_other_settings_find_no_student_of_theirs(self, tiny: RunConfig, tmp_path: Path) -> None:
        save_student(run_of(with_student(tiny, NAMED)).new_student(), tmp_path / "first.safetensors")
        other = with_student(tiny, WHOLE)
        with pytest.raises(DataError, match=r"is made by '.*:small'"):
            run_of(
                replace(other, student=replace(other.student, path=str(tmp_path / "first.safetensors")))
            ).new_student()


def exported(config: RunConfig, bundle: Path) -> None:
    """Train, export, and compare what onnxruntime gives with torch."""
    from edgecmd.evaluation.evaluate import embedder
    from export.device.student import Student as OnDevice
    from export.from_run import export_run

    trained = simulate(config).cpu().eval()
    export_run(run_of(config), bundle, settings=config.export)
    images = task_of(config).data.test.pairs.target
    expected = embedder(trained, task_of(config))(images)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    # Weights of a byte each: the bundle's own limit is 0.9995.
    assert float((OnDevice(bundle)(images).embedding * expected).sum(axis=1).min()) > 0.999
    assert config.student.architecture in (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


class TestARow:
    def test_one_row_is_checked_trained_evaluated_reported_and_exported(
        self, tiny: RunConfig, tmp_path: Path, own_row: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = with_student(tiny, own_row)
        (tmp_path / "row.toml").write_text(to_toml(config), encoding="utf-8")
        assert run(monkeypatch, "run", "--config", tmp_path / "row.toml") == 0
        folder = Path(config.out) / config.name
        assert "student" in read_json(folder / "evaluation.json")
        assert own_row in (folder / "report.html").read_text(encoding="utf-8")
        assert "small family" in (folder / "export" / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert load_student(folder / "student.safetensors").architecture == own_row

    def test_one_row_is_trained_privately(self, tiny: RunConfig, own_row: str) -> None:
        config = with_student(tiny, own_row, private=True)
        simulate(config)
        assert 0 < read_json(Path(config.out) / config.name / "privacy.json")["epsilon"] <= 8.0

    def test_a_misspelt_one_is_named(self, own_row: str) -> None:
        with pytest.raises(ConfigError, match=r"student.architecture='small-2k'.*Did you mean 'small-1k'"):
            student_row("small-2k")


class Broken(nn.Module):
    """A linear layer, and after it what a test puts there."""

    def __init__(self, after: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.flat, self.linear, self.after = nn.Flatten(), nn.Linear(SIDE * SIDE, 4), after

    def forward(self, image: torch.Tensor) -> object:
        return self.after(self.linear(self.flat(image)))


def frozen() -> nn.Module:
    made = Small()
    made.first.requires_grad_(False)
    return made


def tied() -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    made[3].weight = made[2].weight
    return made


def not_finite() -> nn.Module:
    made = Small()
    with torch.no_grad():
        made.first.weight.fill_(float("inf"))
    return made


class OnlyInTraining(Broken):
    def forward(self, image: torch.Tensor) -> object:
        found = self.linear(self.flat(image))
        return (found, found) if self.training else found


def one_row_only(rows: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("two\n  lines")


WRONG: list[tuple[Callable[[], nn.Module], str]] = [
    (
        lambda: Small(3),
        r"<Small> fails on inputs of shape \(3, 1, 16, 16\): RuntimeError.*3 channels.*It must take",
    ),
    (lambda: nn.Conv2d(1, 4, 3), r"gives \(3, 4, 14, 14\) for 3 inputs.*pool its map"),
    (lambda: Broken(lambda rows: rows[0]), r"gives \(4,\) for 3 inputs; allowed is \(batch, features\)"),
    (lambda: Broken(lambda rows: rows[:2]), r"gives \(2, 4\) for 3 inputs"),
    (
        lambda: Broken(lambda rows: (rows, rows)),
        r"gives tuple; allowed is one float tensor.*only the embedding",
    ),
    (lambda: Broken(lambda rows: rows.long()), r"gives torch.int64; allowed is one float tensor"),
    (lambda: Broken(lambda rows: rows / 0), r"gives numbers that are not finite"),
    (lambda: Broken(one_row_only), r"RuntimeError: two lines\. It must take"),
    (lambda: Broken(torch.Tensor.detach), r"fails when it is trained.*let gradients through"),
    (lambda: OnlyInTraining(lambda rows: rows), r"gives tuple; allowed is one float tensor"),
    (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
        r"lazy layer: '1.weight' has no shape yet.*nn.Linear in",
    ),
    (lambda: nn.Flatten(), r"has no weights, so there is nothing to train"),
    (frozen, r"frozen weights, 'first.weight' among 2.*requires_grad_\(True\)"),
    (tied, r"one tensor under two names, '2.weight' and '3.weight'"),
    (not_finite, r"numbers in 'first.weight' that are not finite"),
    (lambda: Small().double(), r"'first.weight' in torch.float64; allowed is float32. Call .float\(\)"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_a_module_that_is_no_student_is_refused_with_the_way_out(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        student(make(), dim=DIM, in_channels=1, size=SIDE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onnx:a.onnx", r"student.architecture='onnx:a.onnx': a student is trained.*timm:NAME"),
        (f"{__name__}:number", r"made a int; allowed is a torch.nn.Module"),
        (f"{__name__}:smal", r"has no 'smal'.*Did you mean 'small'"),
        (
            "no_such_module_here:make",
            r"cannot be imported.*Every process that uses it must be able to import",
        ),
        ("ws-20k", r"student.architecture='ws-20k' is unknown"),
    ],
)
def test_what_names_no_student_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student(text, dim=DIM, size=SIDE)


def test_nothing_is_imported_to_ask_about_a_name_or_to_read_a_file(tmp_path: Path) -> None:
    """A file of weights from a stranger names any module it likes."""
    made = student(Small(), dim=DIM, size=SIDE)
    made.architecture = "antigravity:webbrowser"
    save_student(made, tmp_path / "theirs.safetensors")
    with pytest.raises(DataError, match="never runs by itself"):
        load_student(tmp_path / "theirs.safetensors", like="ws-50k")
    assert not student_row("antigravity:webbrowser").dense
    assert "antigravity" not in sys.modules


def test_a_device_with_pairs_of_its_own_runs_no_code_that_a_server_names() -> None:
    flat = flatten(RunConfig()) | {"student.architecture": "antigravity:webbrowser"}
    with pytest.raises(PrivacyError, match="a server cannot name code to run") as found:
        device_config(flat)
    assert sealed(found.value) == "refused: names-code (student.architecture)"
    assert "antigravity" not in sys.modules


def test_an_export_of_another_shape_is_refused() -> None:
    from export.graph.deployable import rebuild
    from export.graph.spec import ExportSpec

    made = student(Small(), dim=DIM, size=SIDE)
    spec = ExportSpec(
        architecture="<Small>",
        image_size=SIDE,
        channels=1,
        embedding_dim=8,
        offset=0.0,
        scale=1.0,
        license="MIT",
    )
    with pytest.raises(ExportError, match=r"<Small> takes 1 channels and gives 16 numbers.*embedding_dim=8"):
        rebuild(made, spec)
    copied = rebuild(made, replace(spec, embedding_dim=DIM))
    image = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copied(image), made.eval()(image))
    assert copied is not made
