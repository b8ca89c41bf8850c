"""Teachers that settings name: networks with weights from a file, several side by side, components."""

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from torch import nn

import edgecmd as ec
from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import flatten, load_config, to_toml, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.pairs import Images
from edgecmd.experiments.teacher_facts import teacher_text
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.models.teacher.teacher_set import concat, named_teacher
from edgecmd.models.teacher.teachers import TEACHERS, Teacher, load_teacher
from edgecmd.settings import TeacherConfig
from tests.teacher_files import CROP, MEAN, SIDE, STD, made_up_timm, onnx_file, weights_file
from tests.tiny_federation import NUM_PAIRS, simulate, task_of, tiny_config, write_pairs

DIM = 6


class Colours(nn.Module):
    """Mean and largest value of each colour."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image.mean(dim=(2, 3)), image.amax(dim=(2, 3))], dim=1)


def colours() -> nn.Module:
    """What ``test_teacher_names:colours`` names."""
    return Colours()


def ready_made() -> Teacher:
    """A teacher with a size of its own."""
    return Teacher.of(Colours(), size=12)


COLOURS, READY = f"{__name__}:colours", f"{__name__}:ready_made"


@pytest.fixture(autouse=True)
def timm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with made_up_timm(tmp_path_factory.mktemp("timm"), monkeypatch):
        yield


def pictures(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def no_public() -> Images:
    raise AssertionError("public pictures are for components alone")


def named(*, cache: Path | None = None, public: np.ndarray | None = None, **options: object) -> Teacher:
    settings = TeacherConfig(**options)  # type: ignore[arg-type]
    source = no_public if public is None else lambda: public
    return named_teacher(settings, data_set="", public=source, cache=cache)


class TestANetworkOfTimm:
    def test_its_weights_and_its_own_preparation_by_hand(self, tmp_path: Path) -> None:
        """The middle half is white, so each colour is (1 - mean) / std times its weight; the frame is cut."""
        path = weights_file(tmp_path / "w.safetensors")
        framed = np.zeros((1, 16, 16, 3), np.uint8)
        framed[:, 4:12, 4:12] = 255
        by_hand = [(1 - m) / s * w for m, s, w in zip(MEAN, STD, (1, 2, 3), strict=True)]
        made = named(name="timm:means", weights=str(path))
        np.testing.assert_allclose(made.embed(framed)[0], by_hand, atol=1e-6)
        assert made.recipe == {
            "own": "timm:means with w.safetensors (1 of 1 tensors matched; left over: fc.weight)"
        }
        import timm  # type: ignore[import-not-found]

        assert set(timm.MADE) == {(3, SIDE, SIDE)}
        same = ec.Teacher.of("timm:means", weights=path, size=SIDE, mean=MEAN, std=STD, crop=CROP)
        assert same.sha256 == ec.Teacher("timm:means", weights=path).sha256 == made.sha256

    def test_settings_stand_in_place_of_its_own(self, tmp_path: Path) -> None:
        path = weights_file(tmp_path / "w.pth")
        made = named(name="timm:means", weights=str(path), size=8, mean=(0.0,) * 3, std=(0.5,) * 3, crop=1.0)
        white = np.full((1, 16, 16, 3), 255, np.uint8)
        np.testing.assert_allclose(made.embed(white)[0], [2.0, 4.0, 6.0], atol=1e-6)
        import timm

        assert set(timm.MADE) == {(3, 8, 8)}

    def test_its_digest_is_of_all_that_its_features_follow_from(self, tmp_path: Path) -> None:
        first = str(weights_file(tmp_path / "a.safetensors"))
        same = str(weights_file(tmp_path / "b.pth"))
        other = str(weights_file(tmp_path / "c.safetensors", (1, 2, 4)))
        options: list[dict[str, object]] = [
            {},
            {"name": "timm:other_means"},
            {"weights": other},
            {"size": 16},
            {"mean": (0.5, 0.5, 0.5)},
            {"std": (0.5, 0.5, 0.5)},
            {"crop": 1.0},
        ]
        made = [named(**({"name": "timm:means", "weights": first} | more)) for more in options]
        assert len({one.sha256 for one in made}) == len(options)
        assert named(name="timm:means", weights=same).sha256 == made[0].sha256
        for one in made:
            cached_features(one, pictures(2), cache_dir=tmp_path / "kept")
        assert len(list((tmp_path / "kept").iterdir())) == len(options)

    def test_without_weights_it_says_where_they_are(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r"needs teacher.weights.*random weights teach nothing.*nothing is downloaded.*"
            r"torch.save\(timm.create_model\('means', pretrained=True\).state_dict\(\), 'means.pth'\)",
        ):
            named(name="timm:means")

    def test_a_name_that_it_has_not_gets_the_nearest(self, tmp_path: Path) -> None:
        path = weights_file(tmp_path / "w.pth")
        with pytest.raises(ConfigError, match="timm has no network 'maens'. Near: means"):
            named(name="timm:maens", weights=str(path))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (
                "w.pth",
                {"other": torch.ones(3)},
                "does not hold weights of timm:means: 0 of 1 tensors matched",
            ),
            ("w.pth", {"weight": torch.ones(4)}, "of another shape: weight"),
            ("w.pth", {"weight": torch.tensor([1.0, torch.nan, 1.0])}, "are not finite"),
            ("w.pth", {"weight": io.StringIO}, "StringIO, which is code.*never read"),
            ("w.safetensors", b"no weights at all", "not a safetensors file"),
            ("w.pth", None, "is not a file. Give a .safetensors file, or a .pth"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused(
        self, name: str, content: object, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(DataError, match=message):
            named(name="timm:means", weights=str(path))

    def test_a_network_that_a_file_fills_in_part_is_no_teacher(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import timm

        made = timm.create_model

        def wider(name: str, **options: object) -> nn.Module:
            network: nn.Module = made(name, **options)
            network.register_buffer("shift", torch.zeros(3))
            return network

        monkeypatch.setattr(timm, "create_model", wider)
        path = weights_file(tmp_path / "w.pth")
        with pytest.raises(DataError, match=r"not hold all weights.*not in the file: shift.*would be random"):
            named(name="timm:means", weights=str(path))

    def test_no_code_of_a_file_runs(self, tmp_path: Path) -> None:
        path, mark = tmp_path / "w.pth", tmp_path / "ran"

        class Bad:
            def __reduce__(self) -> object:
                return Path.touch, (mark,)

        path.write_bytes(pickle.dumps({"weight": Bad()}))
        with pytest.raises(DataError, match="a pickle with something that torch does not read"):
            named(name="timm:means", weights=str(path))
        assert not mark.exists()


WHITE = np.full((1, 16, 16, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "imagenet", "size": 32},
            r"teacher.size=32 is for networks of your own \(timm:, .*module:f",
        ),
        ({"path": "x.safetensors", "crop": 0.5}, r"teacher.crop=0.5 is for networks"),
        ({"mean": (0.1, 0.2, 0.3)}, r"teacher.mean=\(0.1, 0.2, 0.3\) is for networks"),
        ({"name": COLOURS, "output": "a"}, r"teacher.output='a' is for ONNX files \(onnx:\)"),
        ({"name": COLOURS, "weights": "a.pth"}, r"names 1 files, and .* has 0 of timm:, torchvision:"),
        ({"name": "timm:means,timm:means", "weights": "a.pth"}, r"names 1 files, and .* has 2 of timm:"),
        ({"name": "icons,,imagenet"}, r"teacher.name='icons,,imagenet' has an empty name"),
        ({"name": "icons,imagnet"}, r"teacher.name='imagnet' is unknown.*'imagenet'"),
        ({"name": READY, "size": 16}, r"made a Teacher, which has its own size.*Leave out size"),
        ({"name": "clip.onnx"}, r"clip.onnx is an ONNX file. Write it as teacher.name='onnx:clip.onnx'"),
        ({"path": "a/clip.onnx"}, r"Write it as teacher.name='onnx:a/clip.onnx'"),
        ({"mean": (0.1, 0.2)}, r"teacher.mean=\[0.1, 0.2\] has 2 numbers. Give three"),
        ({"std": (0.1, 0.2, 0.0)}, r"teacher.std=0.0 is outside the allowed range"),
        ({"crop": 1.5}, r"teacher.crop=1.5 is outside"),
        (
            {"pair_features": "a.npz", "public_features": "b.npz", "pca_dim": 3},
            r"holds ready features, so teacher.pca_dim would have no effect",
        ),
    ],
)
def test_a_setting_that_suits_no_named_teacher_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named(**options)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (
            "icons",
            {"weights": "a.pth"},
            r"weights='a.pth' of a teacher applies to names .*timm: and torchvision:",
        ),
        (Colours(), {"output": "a"}, r"output='a' .* start with onnx:, not to 'Colours'"),
        (Colours(), {"crop": 0.0}, r"crop=0.0 of a teacher's images is not a share above 0"),
    ],
)
def test_an_argument_that_does_not_suit_is_refused(
    made: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Teacher.of(made, **options)  # type: ignore[arg-type]


def test_settings_prepare_pictures_for_code_of_one_s_own() -> None:
    made = named(name=COLOURS, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.5))
    np.testing.assert_allclose(made.embed(WHITE)[0], [2.0, 2.0, 1.0] * 2, atol=1e-6)


def test_numbers_travel_through_every_form_of_the_settings(tmp_path: Path) -> None:
    given = ["teacher.name=timm:a, onnx:b.onnx", "teacher.mean=[0.5, 0.25, 1]", "teacher.std=0.5,0.25,1"]
    config = load_config(None, given)
    assert (config.teacher.mean, config.teacher.std) == ((0.5, 0.25, 1.0), (0.5, 0.25, 1.0))
    assert unflatten(flatten(config)) == config
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "c.toml") == config
    with pytest.raises(
        ConfigError, match=r"teacher.mean='a,b' is text; expected finite numbers, such as \[0"
    ):
        load_config(None, ["teacher.mean=a,b"])
    for wrong in ("[nan, 0, 0]", "true", "[true, 0, 0]", '["a", "b", "c"]', "0.5,,0.5"):
        with pytest.raises(ConfigError, match="expected finite numbers"):
            load_config(None, [f"teacher.mean={wrong}"])
    with pytest.raises(ConfigError, match=r"teacher.mean=\[0.5\] has 1 numbers"):
        load_config(None, ["teacher.mean=0.5"])


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


class TestSideBySide:
    def test_unit_features_stand_beside_each_other(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "means.onnx")
        made = named(name=f"icons, onnx:{path},{COLOURS}")
        parts = [Teacher.of("icons"), Teacher.of(f"onnx:{path}"), Teacher.of(COLOURS)]
        expected = np.concatenate([unit(one.embed(pictures(5))) for one in parts], axis=1)
        np.testing.assert_allclose(made.embed(pictures(5)), expected, atol=1e-5)
        assert made.dim == 128 + 3 + DIM
        assert made.recipe["own"].startswith("icons + onnx:means.onnx + ")
        assert str(tmp_path) not in made.recipe["own"]

    def test_components_are_those_of_scikit_learn(self) -> None:
        public, parts = pictures(40, 1), [Teacher.of("icons"), Teacher.of(Colours())]
        rows = np.concatenate([unit(one.embed(public)) for one in parts], axis=1).astype(np.float64)
        oracle = PCA(n_components=4, svd_solver="full").fit(rows)
        largest = np.abs(oracle.components_).argmax(axis=1)
        signs = np.sign(oracle.components_[np.arange(4), largest])
        shown = np.concatenate([unit(one.embed(pictures(7))) for one in parts], axis=1)
        expected = oracle.transform(shown.astype(np.float64)) * signs
        made = ec.Teacher.concat(parts, public=ec.Images(images=public), dim=4)
        np.testing.assert_allclose(made.embed(pictures(7)), expected, atol=1e-5)

    @pytest.mark.parametrize("power", [0.5, 1.0])
    def test_a_power_divides_components_by_their_deviation(self, power: float) -> None:
        public, parts = pictures(40, 1), [Teacher.of("icons"), Teacher.of(Colours())]
        plain = ec.Teacher.concat(parts, public=ec.Images(images=public), dim=4)
        scaled = ec.Teacher.concat(parts, public=ec.Images(images=public), dim=4, power=power)
        deviation = plain.embed(public).astype(np.float64).std(axis=0, ddof=1)
        expected = plain.embed(pictures(7)) / deviation**power
        np.testing.assert_allclose(scaled.embed(pictures(7)), expected, rtol=1e-3, atol=1e-4)
        if power == 1:
            np.testing.assert_allclose(scaled.embed(public).std(axis=0, ddof=1), 1.0, atol=1e-3)

    def test_a_power_without_components_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match=r"pca_power=0.5 scales principal components.*Set teacher.pca_dim"
        ):
            TeacherConfig(name="icons", pca_power=0.5)

    def test_its_digest_is_of_parts_order_pictures_and_dimension(self) -> None:
        one, other, public = Teacher.of("icons"), Teacher.of(Colours()), pictures(20)
        made = [
            concat([one, other]),
            concat([other, one]),
            concat([one]),
            concat([one, other], public=public, dim=4),
            concat([one, other], public=public, dim=5),
            concat([one, other], public=pictures(20, 1), dim=4),
            concat([one, other], public=public, dim=4, power=0.5),
        ]
        assert len({teacher.sha256 for teacher in made} | {one.sha256}) == len(made) + 1
        assert concat([one, other], public=public, dim=4).sha256 == made[3].sha256

    def test_what_public_pictures_gave_is_kept(self, tmp_path: Path) -> None:
        public, options = pictures(20), {"name": f"icons,{COLOURS}", "pca_dim": 4}
        first = named(cache=tmp_path, public=public, **options)
        kept = sorted(one.name for one in tmp_path.iterdir())
        assert [one.partition("-")[0] for one in kept] == ["components", "features", "features"]
        again = named(cache=tmp_path, public=public, **options)
        np.testing.assert_array_equal(first.embed(pictures(3)), again.embed(pictures(3)))
        assert sorted(one.name for one in tmp_path.iterdir()) == kept

    @pytest.mark.parametrize(
        ("num", "dim"), [(4, 4), (20, 7), (1, 1)], ids=["few pictures", "few numbers", "one picture"]
    )
    def test_more_components_than_there_can_be_are_refused(self, num: int, dim: int) -> None:
        with pytest.raises(ConfigError, match=f"teacher.pca_dim={dim} needs more than {dim} public images"):
            named(public=pictures(num), name=COLOURS, pca_dim=dim)

    def test_public_pictures_without_a_size_are_refused(self, tmp_path: Path) -> None:
        public = ec.Images(images=pictures(3), folder=tmp_path)
        with pytest.raises(ConfigError, match=r"was read without a size.*size=\.\.\."):
            ec.Teacher.concat(["icons"], public=public, dim=2)
        with pytest.raises(ConfigError, match="dim=-1 is outside"):
            ec.Teacher.concat(["icons"], dim=-1)

    def test_a_teacher_of_recordings_stands_beside_none(self) -> None:
        heard = replace(Teacher.of(Colours()), modality="wave", in_channels=1)
        with pytest.raises(ConfigError, match="must take RGB images"):
            concat([Teacher.of(Colours()), heard])
        with pytest.raises(ConfigError, match="at least one"):
            concat([])

    def test_numbers_that_are_none_are_told_before_components_are_sought(self) -> None:
        class Logarithm(nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return torch.log(image.mean(dim=(2, 3)) - 0.2)

        public = pictures(20)
        public[3] = 0
        with pytest.raises(DataError, match="not finite for 1 of 20 public images"):
            concat([Teacher.of(Logarithm())], public=public, dim=2)


def with_teacher(config: RunConfig, **options: object) -> RunConfig:
    return replace(config, teacher=TeacherConfig(**options))  # type: ignore[arg-type]


def test_a_run_is_made_with_several_and_no_pair_has_a_say_in_them(tiny: RunConfig, tmp_path: Path) -> None:
    config = with_teacher(tiny, name=f"icons,{COLOURS}", pca_dim=5)
    assert simulate(config).embedding_dim == 5
    text = teacher_text(task_of(config), config.teacher)
    assert text.startswith(f"icons + {COLOURS}, side by side (SHA-256 {task_of(config).teacher.sha256[:12]})")
    assert f"icons + {COLOURS}, 5 principal components of public pictures" in text
    fewer = write_pairs(tmp_path / "fewer.npz", num_pairs=NUM_PAIRS // 2)
    other = with_teacher(tiny_config(fewer, tmp_path), name=f"icons,{COLOURS}", pca_dim=5)
    with np.load(config.data.path) as one, np.load(fewer) as two:
        np.savez(fewer, **{**dict(two), "public": one["public"]})
    mine, theirs = (Assembly().teacher(one) for one in (config, other))
    assert mine.sha256 == theirs.sha256
    np.testing.assert_array_equal(mine.network.components, theirs.network.components)


def test_the_card_of_a_bundle_names_them_without_a_path(tiny: RunConfig, tmp_path: Path) -> None:
    from export.documents.provenance import _teacher
    from tests.tiny_federation import run_of

    path = onnx_file(tmp_path / "means.onnx")
    for name in (f"onnx:{path}", f"icons,onnx:{path}"):
        run = run_of(with_teacher(tiny, name=name))
        said = _teacher(run)
        assert str(tmp_path) not in said
        assert "onnx:means.onnx: weights with SHA-256 " + run.task.teacher.sha256 in said
        assert str(tmp_path) not in teacher_text(run.task, with_teacher(tiny, name=name).teacher)


def test_a_picture_without_a_feature_is_named_before_anything_is_trained() -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found = image.mean(dim=(2, 3))
            return torch.where(found > 0.49, found, torch.nan) if len(image) > 8 else found

    images = pictures(60)
    pairs, public = ec.Pairs(source=images, target=images[..., :1]), ec.Images(images=images[:30])
    broken = ec.Task(pairs=pairs, teacher=Teacher.of(Broken()), public=public)
    with pytest.raises(DataError, match=r"not finite for \d+ of \d+ sources of pairs, first at row"):
        _ = broken.training_features
    with pytest.raises(DataError, match="sources of the public images"):
        _ = broken.public_features


def test_the_shipped_teachers_are_those_that_they_were() -> None:
    assert load_teacher(name="icons").sha256 == TEACHERS["icons"].sha256 == named(name="icons").sha256


def test_a_dense_student_says_what_it_needs_of_several(tiny: RunConfig) -> None:
    dense = replace(tiny, student=replace(tiny.student, architecture="seg-50k"))
    with pytest.raises(ConfigError, match="The teacher is not one of edgecmd's"):
        _ = task_of(with_teacher(dense, name=f"icons,{COLOURS}")).public_features


def test_a_file_of_pretrain_is_read_as_before(tmp_path: Path, tiny_files: tuple[Path, Path]) -> None:
    assert named(path=str(tiny_files[1])).sha256 == load_teacher(tiny_files[1]).sha256
    save_file({"weight": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="does not say what it holds"):
        named(path=str(tmp_path / "other.safetensors"))
