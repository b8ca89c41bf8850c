"""Students of which the last block and the projector alone are trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgecmd as ec
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json
from edgecmd.data.modalities.table import target_input
from edgecmd.models.any_student import fitted, student
from edgecmd.models.student_file import load_student, student_bytes
from edgecmd.models.students import STUDENTS, Student, build_student, num_parameters
from edgecmd.models.trained_part import last_block, train_part
from edgecmd.privacy.step.gradients import ENGINES, clipped_sum
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import Units
from edgecmd.recipes.warm_start import warm_start
from edgecmd.settings import PrivacyConfig, StudentConfig
from tests.tiny_federation import TESTED, run_of, simulate

DIM, SIDE = 8, 16


def made(architecture: str, which: str = "last") -> Student:
    generator = torch.Generator().manual_seed(0)
    found = build_student(architecture, in_channels=1, embedding_dim=DIM, generator=generator)
    train_part(found, which)
    return found


def trained_names(found: Student) -> set[str]:
    return {name for name, _ in found.named_parameters()}


def units(num: int) -> Units:
    coins = torch.Generator().manual_seed(1)
    return Units(
        images=torch.rand(num, 1, 1, SIDE, SIDE, generator=coins),
        teacher=torch.randn(num, 1, DIM, generator=coins),
        mask=torch.ones(num, 1, dtype=torch.bool),
    )


def distance(embedding: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return ((embedding - teacher).square().sum(dim=1) * mask).sum()


class TestWhatIsTrained:
    @pytest.mark.parametrize(
        ("architecture", "block"),
        [
            ("ws-50k", "trunk.5."),
            ("gn-50k", "trunk.5."),
            ("audio-50k", "trunk.5."),
            ("text-50k", "trunk.second."),
            ("seg-50k", "fine.0."),
            ("lite0-s", "trunk.stages.4.2."),
            ("lite0-m", "trunk.stages.5.3."),
        ],
    )
    def test_the_last_block_and_the_projector(self, architecture: str, block: str) -> None:
        found = made(architecture)
        assert trained_names(found) == {
            name for name in found.state_dict() if name.startswith((block, "projector."))
        }

    @pytest.mark.parametrize(
        "architecture", [name for name, row in STUDENTS.items() if row.family != "ngram"]
    )
    def test_each_weight_is_trained_or_fixed_and_keeps_name_place_and_value(self, architecture: str) -> None:
        whole, part = made(architecture, "all"), made(architecture)
        assert not whole.fixed
        assert trained_names(part) | part.fixed == trained_names(whole)
        assert not trained_names(part) & part.fixed
        for (name, before), (again, after) in zip(
            whole.state_dict().items(), part.state_dict().items(), strict=True
        ):
            assert (name, True) == (again, torch.equal(before, after))
        assert num_parameters(part) == num_parameters(whole)

    def test_of_a_module_of_anyone_s_own(self) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(torch.zeros(1))
                self.stem = nn.Conv2d(1, 4, 3, stride=2)
                self.blocks = nn.Sequential(*(nn.ModuleDict({"a": nn.Conv2d(4, 4, 3)}) for _ in range(2)))
                self.norm = nn.GroupNorm(1, 4)

            def forward(self, image: Tensor) -> Tensor:
                inner = self.stem(image + self.shift)
                for block in self.blocks:
                    inner = block["a"](inner)
                return self.norm(inner).mean((2, 3))

        found = student(Own(), dim=DIM, size=SIDE, trainable="last")
        assert last_block(found) == "backbone.blocks.1.a"
        assert trained_names(found) == {
            *(f"backbone.blocks.1.a.{one}" for one in ("weight", "bias")),
            *(f"backbone.norm.{one}" for one in ("weight", "bias")),
            *(f"projector.{one}" for one in ("weight", "bias")),
        }
        assert "backbone.shift" in found.fixed

    def test_one_block_is_refused(self) -> None:
        own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ConfigError, match=r"is one block.*Set student.trainable='all'"):
            student(own, dim=DIM, size=SIDE, trainable="last")

    @pytest.mark.parametrize("architecture", ["ws-50k", "ngram-1m", "lite0-s"])
    def test_all_but_the_projector(self, architecture: str) -> None:
        whole, part = made(architecture, "all"), made(architecture, "trunk")
        assert part.fixed == {"projector.weight", "projector.bias"}
        assert trained_names(part) == trained_names(whole) - part.fixed
        for name, value in whole.state_dict().items():
            assert torch.equal(part.state_dict()[name], value)
        student(
            nn.Sequential(nn.Conv2d(1, DIM, 3), nn.BatchNorm2d(DIM), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            dim=DIM + 1,
            size=SIDE,
            batch_norm="keep",
            trainable="trunk",
        )

    def test_a_student_without_projector_is_refused(self) -> None:
        own = nn.Sequential(nn.Conv2d(1, DIM, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ConfigError, match=r"has no projector.*Set student.trainable='all'"):
            student(own, dim=DIM, size=SIDE, trainable="trunk")

    def test_statistics_that_go_on_changing_are_refused(self) -> None:
        own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten())
        with pytest.raises(ConfigError, match=r"Set student.batch_norm to freeze, fold or group"):
            student(own, dim=DIM, size=SIDE, batch_norm="keep", trainable="last")
        assert student(own, dim=DIM, size=SIDE, batch_norm="freeze", trainable="last").fixed == {
            *(f"backbone.0.{one}" for one in ("weight", "bias")),
            *(f"backbone.1.{one}" for one in ("weight", "bias", "running_mean", "running_var")),
            "backbone.1.num_batches_tracked",
        }

    def test_an_unknown_word_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"student.trainable='lest' is unknown.*Did you mean 'last'"):
            student("lite0-s", dim=DIM, trainable="lest")

    @pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k", "lite0-s"])
    # "logits" clips no units, and takes a whole sample.
    @pytest.mark.parametrize("engine", [one for one in ENGINES if one != "logits"])
    def test_a_gradient_is_that_of_the_whole_in_the_trained_coordinates(
        self, architecture: str, engine: str
    ) -> None:
        """Nothing is clipped, so each sum is that of plain gradients of the whole student."""
        whole, part = made(architecture, "all"), made(architecture)
        batch = units(3)
        distance(whole(batch.images[:, 0]), batch.teacher[:, 0], batch.mask[:, 0]).backward()
        effective = EffectiveStudent(part)
        found = effective.pull_back(clipped_sum(effective.module, [batch], distance, clip=1e9, engine=engine))
        assert found.keys() == trained_names(part)
        for name, value in found.items():
            expected = whole.get_parameter(name).grad
            scale = float(expected.abs().max())
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4 * scale + 1e-6)

    def test_a_clip_knows_the_trained_coordinates_alone(self) -> None:
        """The norm is over these, so a clipped gradient fills its C; noise is drawn for what is summed."""
        part = made("lite0-s")
        one = clipped_sum(part, [units(1)], distance, clip=0.5, engine="vmap")
        norm = sum(float(value.square().sum()) for value in one.values()) ** 0.5
        assert norm == pytest.approx(0.5 * (1 - 1e-4), rel=1e-5)
        assert one.keys() == trained_names(part)


class TestARun:
    def test_random_weights_are_not_held(self, tiny: RunConfig) -> None:
        for named in ("ws-50k", "timm:resnet18"):
            config = configured(tiny, architecture=named)
            with pytest.raises(ConfigError, match=r"start as random numbers. Set student.path"):
                run_of(config).new_student()

    def test_a_warm_start_trains_all_and_a_run_from_it_the_last(
        self, tiny: RunConfig, tmp_path: Path
    ) -> None:
        config = configured(tiny, architecture="ws-50k")
        warm = warm_start(run_of(config), num_steps=1)
        assert not warm.fixed
        path = tmp_path / "warm.safetensors"
        path.write_bytes(student_bytes(warm))
        config = replace(config, student=replace(config.student, path=str(path)))
        assert unmoved(config) == run_of(config).new_student().fixed

    @pytest.mark.parametrize("strategy", ["fedadam", "krum"])
    def test_no_strategy_moves_what_is_held(self, strategy: str, tiny: RunConfig) -> None:
        config = configured(tiny)
        config = replace(config, federation=replace(config.federation, strategy=strategy, min_clients=0))
        assert unmoved(config) == run_of(config).new_student().fixed

    @pytest.mark.parametrize("mechanism", ["anchors", "groups"])
    def test_with_a_guarantee_per_pair(self, mechanism: str, tiny: RunConfig) -> None:
        config = private(configured(tiny), PrivacyConfig(mechanism=mechanism))
        assert unmoved(config) == run_of(config).new_student().fixed
        assert 0 < read_json(Path(config.out) / config.name / "privacy.json")["epsilon"] <= 8.0

    def test_with_noise_on_whole_clients(self, tiny: RunConfig) -> None:
        settings = PrivacyConfig(mechanism="client", noise_multiplier=2.0, epsilon=500.0)
        config = private(configured(tiny), settings)
        assert unmoved(config) == run_of(config).new_student().fixed

    def test_a_run_that_goes_on_and_its_file(self, tiny: RunConfig) -> None:
        config = configured(tiny)
        expected = student_bytes(simulate(config))
        folder = Path(config.out) / config.name
        again = load_student(folder / "student.safetensors")
        assert student_bytes(again) == expected == student_bytes(simulate(config))
        assert not again.fixed

    def test_the_plan_tells_of_it(self, tiny: RunConfig) -> None:
        from edgecmd.experiments.run_plan import plan_facts, plan_rows

        rows = dict(plan_rows(plan_facts(configured(tiny), TESTED), run_of(configured(tiny))))
        assert rows["student"] == "lite0-s, 695,712 parameters"
        assert rows["first weights"] == "of the teacher imagenet, all but the projector's"
        # A block of 112 * 672 + 672 + 672 * 25 + 672 + 672 * 112 + 112, a projector of 224 * 16 + 16.
        assert rows["trained"] == "the last block and the projector, 172,384 parameters"


class TestInPython:
    def test_a_student_is_made_anew_for_the_scale_of_a_task(self) -> None:
        """With weights for it, a picture is the same picture whatever the scale that it comes in."""
        seen, drawn = (0.5, 0.25), torch.randint(0, 256, (2, 64, 64, 1), dtype=torch.uint8).numpy()
        open_one = ec.student("lite0-s", dim=DIM, trainable="last")
        anew = fitted(open_one, in_channels=1, size=(64, 64), dim=DIM, seen=seen)
        assert trained_names(anew) == trained_names(open_one)
        ink = open_one.trunk.maps(target_input(drawn, offset=1.0, scale=-0.5))[0]
        plain = anew.trunk.maps(target_input(drawn, offset=seen[0], scale=seen[1]))[0]
        torch.testing.assert_close(ink[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-3)
        assert fitted(open_one, in_channels=1, size=(64, 64), dim=DIM, seen=(1.0, -0.5)) is open_one

    def test_one_that_was_trained_stays_as_it_is(self) -> None:
        trained = ec.student("lite0-s", dim=DIM)
        with torch.no_grad():
            trained.projector.weight.add_(1.0)
        assert fitted(trained, in_channels=1, size=(64, 64), dim=DIM, seen=(0.5, 0.25)) is trained


def configured(tiny: RunConfig, *, architecture: str = "lite0-s") -> RunConfig:
    return replace(tiny, student=StudentConfig(architecture=architecture, trainable="last"))


def private(config: RunConfig, settings: PrivacyConfig) -> RunConfig:
    distill = replace(config.distill, loss="auto", batch_size=2)
    return replace(config, name="private", privacy=settings, distill=distill)


def unmoved(config: RunConfig) -> set[str]:
    """Names of what a run left as it began."""
    first, after = run_of(config).new_student().state_dict(), simulate(config).state_dict()
    return {name for name, value in first.items() if torch.equal(value, after[name])}
