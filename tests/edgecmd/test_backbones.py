"""Students by a library's name, first weights from a file, and what becomes of batch normalisation.

The libraries are made up (``tests/made_up_libraries``), so that nothing is installed; the real ones are in
`test_real_backbones`.
"""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError, PrivacyError
from edgecmd.core.files import read_json, sha256_file
from edgecmd.models.any_student import fitted, student
from edgecmd.models.backbones import adapt_channels, build_backbone, is_backbone, load_matching, read_weights
from edgecmd.models.batch_norm import batch_norm_of, num_groups
from edgecmd.models.student_file import load_student, save_student, student_bytes
from edgecmd.models.students import Projected, Student, student_row
from edgecmd.privacy.step.purity import require_pure
from edgecmd.settings import PrivacyConfig, StudentConfig
from tests.tiny_federation import TESTED, run_of, simulate

TESTS = Path(__file__).parents[1]
DIM, SIDE, NAME = 16, 16, "timm:tiny_net"
PRIVATE = PrivacyConfig(mechanism="anchors", epsilon=8.0, delta=1e-5, sampling_rate=0.5)
# Of the made-up network: 5 convolutions, 3 of them with a bias, and 3 normalisations of 4 tensors each.
OWN_TENSORS = 5 + 3 + 3 * 4


def prepend(folder: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / folder))
    for name in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    prepend("made_up_libraries", "timm", monkeypatch)
    yield
    sys.modules.pop("timm", None)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    prepend("made_up_vision", "torchvision", monkeypatch)
    yield
    for name in ("torchvision", "torchvision.models"):
        sys.modules.pop(name, None)


def images(num: int = 4, channels: int = 1) -> Tensor:
    return torch.rand(num, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def trained_network(channels: int = 3) -> nn.Module:
    """The made-up network with a classifier, after a few batches: its statistics say something."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(11)
        made: nn.Module = timm.create_model("tiny_net", pretrained=False, num_classes=7, in_chans=channels)
        with torch.no_grad():
            for _ in range(5):
                made.train()(torch.rand(16, channels, SIDE, SIDE) * 2 + 1)
            for one in made.modules():
                if isinstance(one, nn.BatchNorm2d):
                    one.weight.uniform_(0.5, 1.5)
                    one.bias.uniform_(-0.5, 0.5)
    return made.eval()


@pytest.fixture
def weights(timm: None, tmp_path: Path) -> Path:
    torch.save(trained_network().state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def made(how: str = "auto", *, weights: Path | None = None, channels: int = 1) -> Student:
    return student(NAME, dim=DIM, in_channels=channels, size=SIDE, weights=weights, batch_norm=how)


def fine_tuned(one: Student, steps: int = 3) -> Student:
    """A few steps in training mode."""
    optimizer = torch.optim.SGD(one.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        one.train()(images()).square().sum().backward()
        optimizer.step()
    return one


class TestANameOfALibrary:
    def test_what_names_one(self) -> None:
        assert is_backbone("timm:resnet18")
        assert is_backbone("torchvision:resnet18")
        for other in ("ws-50k", "timm", "my_timm:resnet18", "onnx:a.onnx"):
            assert not is_backbone(other)

    def test_it_has_no_classifier_no_layer_in_place_and_follows_from_the_seed(self, timm: None) -> None:
        first, again = made(), made()
        assert isinstance(first, Projected)
        assert first(images()).shape == (4, DIM)
        assert first.architecture == NAME
        assert not any("classifier" in name for name in first.state_dict())
        assert not any(getattr(one, "inplace", False) for one in first.modules())
        assert student_bytes(first) == student_bytes(again)
        assert student_bytes(first) != student_bytes(student(NAME, dim=DIM, in_channels=1, size=SIDE, seed=1))

    def test_maps_are_pooled_by_their_mean(self, timm: None) -> None:
        maps = student("timm:tiny_maps", dim=12, in_channels=1, size=SIDE, batch_norm="keep").eval()
        vectors = student(NAME, dim=12, in_channels=1, size=SIDE, batch_norm="keep").eval()
        torch.testing.assert_close(maps(images()), vectors(images()))

    def test_one_for_a_fixed_size_is_made_for_the_data_s(self, timm: None) -> None:
        open_one = student("timm:tiny_fixed", dim=DIM)
        found = fitted(open_one, in_channels=2, size=(8, 12), dim=DIM, seen=(1.0, -0.5))
        assert found(torch.zeros(2, 2, 8, 12)).shape == (2, DIM)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "timm:tiny_nett",
                r"timm has no network 'tiny_nett'\. Near: tiny_net.*All 4 names: timm.list_models",
            ),
            ("timm:hf-hub:someone/net", r"timm has no network 'hf-hub:someone/net'"),
            ("timm:", r"timm has no network ''"),
            ("timm:tiny_faulty", r"cannot be made for 1 channels: RuntimeError: Invalid pretrained tag"),
            ("timm:tiny_net.nope", r"Invalid pretrained tag \(nope\)"),
        ],
    )
    def test_another_name_is_refused(self, name: str, message: str, timm: None) -> None:
        with pytest.raises(ConfigError, match=message):
            student(name, dim=DIM, in_channels=1, size=SIDE)

    def test_a_tag_is_taken(self, timm: None) -> None:
        assert student(f"{NAME}.in1k", dim=DIM, in_channels=1, size=SIDE).architecture == f"{NAME}.in1k"

    @pytest.mark.parametrize("library", ["timm", "torchvision"])
    def test_a_library_that_is_missing_is_told_how_to_install(
        self, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=rf'needs {library}, which.*pip install "edgecmd\[{library}\]"'):
            student(f"{library}:resnet18", dim=DIM)
        assert student_row(f"{library}:resnet18").text == "a network of a library"

    def test_a_library_that_fails_is_told_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist')")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        with pytest.raises(ConfigError, match=r"cannot be imported \(operator nms does not exist\)"):
            student(NAME, dim=DIM)

    @pytest.mark.parametrize(("name", "width"), [("resnet", 6), ("mobilenet", 9), ("squeezenet", 6)])
    def test_heads_of_torchvision_are_taken_off(self, name: str, width: int, torchvision: None) -> None:
        found = build_backbone("student.architecture", f"torchvision:{name}", in_channels=2)
        assert found.eval()(images(channels=2)).shape == (4, width)
        with pytest.raises(ConfigError, match=r"torchvision has no network 'resnett'\. Near: resnet\."):
            build_backbone("student.architecture", "torchvision:resnett")

    def test_grey_pictures_give_what_three_equal_channels_give(self, weights: Path) -> None:
        """By linearity of a convolution: sum over c of w_c * x = (sum over c of w_c) * x."""
        grey = made("keep", weights=weights).eval().backbone
        colour = trained_network()
        colour.classifier = nn.Identity()
        torch.testing.assert_close(
            grey(images()), colour(images().expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
        )

    def test_more_channels_repeat_rgb(self) -> None:
        weight = torch.arange(6.0).reshape(2, 3, 1, 1)
        expected = torch.tensor([[0.0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]) / 2
        torch.testing.assert_close(adapt_channels(weight, 6)[:, :, 0, 0], expected)
        torch.testing.assert_close(
            adapt_channels(weight, 2)[:, :, 0, 0], torch.tensor([[0.0, 1.5], [4.5, 6]])
        )


def of_layers(layers: dict[str, Tensor], folder: Path, *, kind: str) -> Path:
    """The same tensors in a file of some kind."""
    path = folder / f"other-{kind}.pth"
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({name: one.contiguous() for name, one in layers.items()}, path)
    elif kind == "half":
        torch.save(
            {name: one.half() if one.is_floating_point() else one for name, one in layers.items()}, path
        )
    elif kind == "old":
        torch.save(layers, path, _use_new_zipfile_serialization=False)
    elif kind == "prefixed":
        torch.save(
            {"state_dict": {f"module.model.{name}": one for name, one in layers.items()}, "epoch": 3}, path
        )
    else:
        torch.save({kind: layers, "epoch": 3}, path)
    return path


class TestFirstWeights:
    def test_what_matched_is_counted_and_named(self, weights: Path) -> None:
        found = made(weights=weights).first_weights
        assert found is not None
        assert (found.num, found.wanted, found.absent, found.misshapen) == (OWN_TENSORS, OWN_TENSORS, (), ())
        assert found.left_over == ("classifier.weight", "classifier.bias")
        assert found.sha256 == sha256_file(weights)
        assert found.sentence() == (
            f"{OWN_TENSORS} of {OWN_TENSORS} tensors matched; left over: classifier.weight, classifier.bias"
        )

    @pytest.mark.parametrize("kind", ["safetensors", "half", "old", "prefixed", "model", "state_dict"])
    def test_other_kinds_of_file_give_the_same(self, kind: str, weights: Path, tmp_path: Path) -> None:
        layers = trained_network().state_dict()
        expected = made("keep", weights=weights).eval()(images())
        found = made("keep", weights=of_layers(layers, tmp_path, kind=kind)).eval()(images())
        torch.testing.assert_close(
            found, expected, **({"rtol": 0.02, "atol": 0.02} if kind == "half" else {})
        )

    def test_some_layers_may_differ(self, weights: Path, tmp_path: Path) -> None:
        layers = trained_network().state_dict()
        del layers["conv_dw.weight"]
        layers["conv_head.weight"] = torch.zeros(5, 8, 1, 1)
        torch.save(layers, tmp_path / "some.pth")
        found = made(weights=tmp_path / "some.pth").first_weights
        assert found is not None
        assert (found.num, found.absent, found.misshapen) == (
            OWN_TENSORS - 2,
            ("conv_dw.weight",),
            ("conv_head.weight",),
        )
        assert "not in the file: conv_dw.weight; of another shape: conv_head.weight" in found.sentence()

    def test_a_module_and_a_factory_may_start_from_a_file(self, weights: Path) -> None:
        module = build_backbone("student.architecture", NAME, in_channels=1)
        found = student(module, dim=DIM, size=SIDE, weights=weights)
        assert found.first_weights is not None
        assert found.first_weights.num == OWN_TENSORS
        assert found.batch_norm == "freeze"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                lambda: {"other.weight": torch.zeros(3)},
                r"0 of 20 tensors matched; not in the file: conv_stem",
            ),
            (lambda: trained_half(), r"8 of 20 tensors matched"),
            (
                lambda: {"epoch": 3, "arguments": {}},
                r"holds no named tensors; its keys are: epoch, arguments",
            ),
            (lambda: {}, r"its keys are: none"),
            (lambda: {"model": {}}, r"its keys are: none"),
            (lambda: 3, r"holds a int instead of named tensors"),
            (lambda: {"a": torch.full((2,), float("nan"))}, r"has numbers in 'a' that are not finite"),
            (lambda: nn.Linear(2, 2), r"is a pickle with torch\.nn\.modules\.linear\.Linear, which is code"),
        ],
    )
    def test_another_content_is_refused(
        self, content: Callable[[], object], message: str, timm: None, tmp_path: Path
    ) -> None:
        torch.save(content(), tmp_path / "other.pth")
        with pytest.raises(DataError, match=rf"student\.weights='.*other\.pth'.*{message}"):
            made(weights=tmp_path / "other.pth")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (pickle.dumps(print), r"is a pickle with something that torch does not read"),
            (b"PK\x03\x04 and no more", r"is a pickle with something"),
            (b"", r"is not a safetensors file"),
            (b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense", r"is not a safetensors file"),
            (None, r"is not a file"),
        ],
    )
    def test_a_file_of_another_kind_is_refused(
        self, content: bytes | None, message: str, timm: None, tmp_path: Path
    ) -> None:
        path = tmp_path / "file.pth"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            made(weights=path)

    def test_no_code_of_a_file_runs(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        path = tmp_path / "code.pth"
        path.write_bytes(pickle.dumps(Touches(str(ran)), protocol=2))
        with pytest.raises(DataError, match=r"is a pickle with"):
            read_weights("student.weights", path)
        assert not ran.exists()

    def test_a_student_of_the_table_has_none(self, weights: Path) -> None:
        with pytest.raises(ConfigError, match=r"is for networks of timm.*set student\.path"):
            student("ws-50k", dim=DIM, weights=weights)
        with pytest.raises(ConfigError, match=r"both name first weights"):
            StudentConfig(path="a.safetensors", weights="b.pth")

    def test_a_torn_checkpoint_is_refused(self, weights: Path, tmp_path: Path) -> None:
        whole = weights.read_bytes()
        (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="or it is damaged"):
            read_weights("student.weights", tmp_path / "torn.pth")

    def test_channels_of_a_file_that_are_not_rgb_do_not_match(self, timm: None, tmp_path: Path) -> None:
        torch.save(trained_network(channels=5).state_dict(), tmp_path / "five.pth")
        found = made(weights=tmp_path / "five.pth").first_weights
        assert found is not None
        assert found.misshapen == ("conv_stem.weight",)


class Touches:
    """What a hostile pickle does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (io.open, (self.path, "w"))


def trained_half() -> dict[str, Tensor]:
    """The normalisations' scales and shifts, and two more: less than half."""
    every = trained_network().state_dict()
    names = [name for name in every if name.startswith(("bn1", "bn2")) and "num" not in name]
    return {name: every[name] for name in names}


class TestBatchNormalisation:
    @pytest.mark.parametrize("how", ["auto", "keep", "freeze", "fold"])
    def test_first_answers_are_those_of_the_network(self, how: str, weights: Path) -> None:
        found = made(how, weights=weights, channels=3).eval()
        expected = trained_network()
        expected.classifier = nn.Identity()
        torch.testing.assert_close(
            found.backbone(images(channels=3)), expected(images(channels=3)), rtol=1e-4, atol=1e-5
        )

    def test_what_auto_is(self, weights: Path) -> None:
        assert made(weights=weights).batch_norm == "freeze"
        assert made().batch_norm == "group"
        assert batch_norm_of("auto", architecture="my_students:small") == "keep"
        with pytest.raises(ConfigError, match=r"student.batch_norm='frozen'.*Did you mean 'freeze'"):
            made("frozen")

    def test_folding_leaves_what_follows_no_convolution_frozen(self, weights: Path) -> None:
        found = made("fold", weights=weights)
        kept = [name for name, one in found.named_modules() if isinstance(one, nn.BatchNorm2d)]
        assert kept == ["backbone.pre"]
        assert found.fixed == {
            f"backbone.pre.{one}" for one in ("running_mean", "running_var", "num_batches_tracked")
        }
        assert all(one.requires_grad for one in found.parameters())

    def test_folding_that_changes_the_answer_is_refused(self) -> None:
        class Beside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
                self.norm.running_mean.fill_(3.0)

            def forward(self, image: Tensor) -> Tensor:
                inner = self.first(image)
                return (self.norm(inner) + inner).mean((2, 3))

        with pytest.raises(ConfigError, match=r"gives different results .*student.batch_norm='freeze'"):
            student(Beside(), dim=DIM, size=SIDE, batch_norm="fold")

    @pytest.mark.parametrize(
        ("channels", "groups"), [(576, 32), (240, 30), (24, 3), (16, 2), (12, 1), (7, 1)]
    )
    def test_each_group_has_eight_channels_or_more(self, channels: int, groups: int) -> None:
        assert num_groups(channels) == groups

    def test_a_group_norm_has_the_same_scale_and_shift(self) -> None:
        """By hand: 16 channels are 2 groups, each brought to mean 0 and variance 1 within a picture."""
        wide = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            wide[1].weight.uniform_(0.5, 2.0)
            wide[1].bias.uniform_(-1.0, 1.0)
        found = student(wide, dim=DIM, size=SIDE, batch_norm="group")
        maps = wide[0](images()).unflatten(1, (2, 8))
        centred = maps - maps.mean((2, 3, 4), keepdim=True)
        normal = centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()
        expected = normal.flatten(1, 2).mean((2, 3)) * wide[1].weight + wide[1].bias
        torch.testing.assert_close(found.backbone(images()), expected, rtol=1e-4, atol=1e-5)
        assert isinstance(wide[1], nn.BatchNorm2d)

    @pytest.mark.parametrize("how", ["freeze", "fold", "group"])
    def test_pairs_are_kept_apart_and_statistics_stay(self, how: str, weights: Path) -> None:
        found = made(how, weights=weights)
        before = {name: value.clone() for name, value in found.state_dict().items()}
        fine_tuned(found)
        require_pure(found, in_channels=1, image_size=SIDE)
        for name, value in found.state_dict().items():
            assert torch.equal(value, before[name]) == (name in found.fixed), name

    def test_kept_statistics_are_refused_under_a_guarantee(self, weights: Path) -> None:
        with pytest.raises(PrivacyError, match=r"set student.batch_norm to 'freeze' or 'group'"):
            require_pure(made("keep", weights=weights), in_channels=1, image_size=SIDE)

    @pytest.mark.parametrize("how", ["keep", "freeze", "fold", "group"])
    def test_a_file_of_the_student_is_read_again(self, how: str, weights: Path, tmp_path: Path) -> None:
        found, path = fine_tuned(made(how, weights=weights)), tmp_path / "student.safetensors"
        save_student(found, path)
        weights.unlink()
        for like in (NAME, found, trained_network(channels=1)):
            if isinstance(like, nn.Module) and not isinstance(like, Student):
                like.classifier = nn.Identity()
            again = load_student(path, like=like)
            torch.testing.assert_close(again(images()), found.eval()(images()))
            assert again.batch_norm == how
            assert again.fixed == found.fixed
        assert student_bytes(load_student(path, like=NAME)) == path.read_bytes()

    def test_an_unknown_word_in_a_file_is_refused(self, timm: None, tmp_path: Path) -> None:
        found = made("group")
        found.batch_norm = "grop"
        save_student(found, tmp_path / "other.safetensors")
        with pytest.raises(DataError, match=r"batch_norm='grop'.*Did you mean 'group'"):
            load_student(tmp_path / "other.safetensors", like=NAME)


def configured(tiny: RunConfig, *, weights: Path | None = None, how: str = "auto") -> RunConfig:
    given = StudentConfig(architecture=NAME, weights=str(weights or ""), batch_norm=how)
    return replace(tiny, student=given)


def private(config: RunConfig, settings: PrivacyConfig = PRIVATE) -> RunConfig:
    distill = replace(config.distill, loss="auto", batch_size=2)
    return replace(config, name="private", privacy=settings, distill=distill)


class TestARun:
    def test_a_federation_starts_from_the_file_and_notes_its_digest(
        self, tiny: RunConfig, weights: Path
    ) -> None:
        config = configured(tiny, weights=weights)
        first = run_of(config).new_student()
        trained = simulate(config)
        folder = Path(config.out) / config.name
        assert read_json(folder / "first-weights.json") == {"sha256": sha256_file(weights)}
        assert student_bytes(load_student(folder / "student.safetensors", like=NAME)) == student_bytes(
            trained
        )
        after = trained.state_dict()
        assert {
            name for name, value in first.state_dict().items() if torch.equal(value, after[name])
        } == first.fixed
        assert len(first.fixed) == 9
        assert student_bytes(simulate(replace(config, name="again"))) == student_bytes(trained)

    @pytest.mark.parametrize("strategy", ["fedadam", "fedavgm"])
    def test_no_strategy_moves_held_statistics(self, strategy: str, tiny: RunConfig, weights: Path) -> None:
        config = configured(tiny, weights=weights)
        config = replace(config, federation=replace(config.federation, strategy=strategy))
        first, after = run_of(config).new_student(), simulate(config).state_dict()
        assert {
            name for name, value in first.state_dict().items() if torch.equal(value, after[name])
        } == first.fixed

    def test_a_run_goes_on_with_the_same_file_alone(self, tiny: RunConfig, weights: Path) -> None:
        config = configured(tiny, weights=weights)
        expected = student_bytes(simulate(config))
        assert student_bytes(simulate(config)) == expected
        whole = weights.read_bytes()
        torch.save(trained_network().state_dict() | {"more": torch.zeros(1)}, weights)
        with pytest.raises(ConfigError, match=r"is not the file that the run in .* started with"):
            simulate(config)
        weights.unlink()
        with pytest.raises(DataError, match=r"student.weights='.*' is not a file"):
            simulate(config)
        weights.write_bytes(whole)
        assert student_bytes(simulate(config)) == expected

    @pytest.mark.parametrize("how", ["freeze", "fold", "group"])
    def test_it_is_trained_with_a_guarantee_per_pair(self, how: str, tiny: RunConfig, weights: Path) -> None:
        config = private(configured(tiny, weights=weights, how=how))
        first = run_of(config).new_student()
        after = simulate(config).state_dict()
        assert 0 < read_json(Path(config.out) / config.name / "privacy.json")["epsilon"] <= 8.0
        assert {
            name for name, value in first.state_dict().items() if torch.equal(value, after[name])
        } == first.fixed

    def test_noise_on_whole_clients_leaves_held_statistics(self, tiny: RunConfig, weights: Path) -> None:
        config = private(
            configured(tiny, weights=weights),
            PrivacyConfig(mechanism="client", noise_multiplier=2.0, epsilon=500.0, delta=1e-5),
        )
        first, after = run_of(config).new_student(), simulate(config).state_dict()
        assert {
            name for name, value in first.state_dict().items() if torch.equal(value, after[name])
        } == first.fixed

    def test_the_plan_tells_what_matched(self, tiny: RunConfig, weights: Path) -> None:
        from edgecmd.experiments.run_plan import plan_facts, plan_rows

        config = configured(tiny, weights=weights)
        rows = dict(plan_rows(plan_facts(config, TESTED), run_of(config)))
        assert rows["first weights"].startswith(f"tiny.pth, {OWN_TENSORS} of {OWN_TENSORS} tensors matched")
        assert rows["batch normalisation"] == "freeze"

    @pytest.mark.parametrize("profile", ["fp32", "w8", "int8"])
    def test_it_is_exported(self, profile: str, tiny: RunConfig, weights: Path, tmp_path: Path) -> None:
        from edgecmd.evaluation.evaluate import embedder
        from export.device.student import Student as OnDevice
        from export.from_run import export_run

        # Without it features are so alike that int8, checked to 0.02, would be refused.
        state = torch.load(weights, weights_only=True)
        torch.save(state | {"conv_head.bias": torch.zeros(12)}, weights)
        config = configured(tiny, weights=weights)
        config = replace(config, export=replace(config.export, profiles=profile))
        run, trained = run_of(config), simulate(config).eval()
        export_run(run, tmp_path / "bundle", settings=config.export)
        inputs = run.task.data.test.pairs.target
        expected = embedder(trained, run.task)(inputs)
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        least = {"fp32": 0.999999, "w8": 0.9995, "int8": 0.9}[profile]
        assert float((OnDevice(tmp_path / "bundle")(inputs).embedding * expected).sum(axis=1).min()) >= least


def test_a_width_that_hangs_on_the_batch_is_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIDE, 4)

        def forward(self, image: Tensor) -> Tensor:
            rows = self.layer(image[:, 0]).flatten(1)
            return rows[:, : 4 + 4 * (len(rows) == 3)]

    with pytest.raises(ConfigError, match=r"gives 8 features in a batch of 3 and 4 in one of 2"):
        student(Mixed(), dim=DIM, in_channels=1, size=SIDE)


@pytest.mark.parametrize("dim", [4, 8])
def test_a_width_that_hangs_on_a_batch_that_was_not_tried_is_refused_when_it_comes(dim: int) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIDE, 4)

        def forward(self, image: Tensor) -> Tensor:
            rows = self.layer(image[:, 0]).mean(dim=1)
            return rows[:, : 4 - (len(rows) == 5)]

    # With a projector, and without one, where the width is the teacher's already.
    made = student(Mixed(), dim=dim, in_channels=1, size=SIDE)
    assert made(images()).shape == (4, dim)
    with pytest.raises(
        ConfigError, match=r"<Mixed> gives \(5, 3\) for a batch of 5, and 4 numbers per input"
    ):
        made(images(5))
    with pytest.raises(ConfigError, match=r"gives \(5, 3\) for a batch of 5"):
        require_pure(student(Mixed(), dim=dim, in_channels=1, size=SIDE), in_channels=1, image_size=SIDE)


def test_a_report_is_short(timm: None, tmp_path: Path) -> None:
    many = {f"left{row}.weight": torch.zeros(1) for row in range(40)}
    torch.save(trained_network().state_dict() | many, tmp_path / "many.pth")
    network = build_backbone("student.architecture", NAME)
    found = load_matching(
        network, read_weights("student.weights", tmp_path / "many.pth"), setting="student.weights", what=NAME
    )
    assert found.sentence().endswith("left2.weight and 37 more")
