"""A user's own recordings beside pictures: as a folder, as one .npz, and with owners held out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.partition import partition
from edgecmd.data.user_files.folder import load_folder
from edgecmd.settings import DataConfig
from tests.made_up_sound import tone, write_wav
from tests.user_files import check_folder, read_pairs

NUM, SIDE, RATE_HZ = 40, 16, 8000
OWNERS = ("ann", "bob", "cy", "di")


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def sound(index: int) -> np.ndarray:
    return tone(300.0 + 40.0 * index, seconds=0.3)


def fill(folder: Path, *, num: int = NUM, rate_hz: int = RATE_HZ) -> Path:
    """Pairs p00, p01, ... by four owners in turn."""
    (folder / "source").mkdir(parents=True)
    for index in range(num):
        Image.fromarray(picture(index)).save(folder / "source" / f"p{index:02d}.png")
        shares = tone(300.0 + 40.0 * index, seconds=0.3, rate_hz=rate_hz)
        write_wav(folder / "target" / f"p{index:02d}.wav", shares, rate_hz=rate_hz)
    lines = [f"p{index:02d},{OWNERS[index % 4]},word-{index // 4}" for index in range(num)]
    (folder / "pairs.csv").write_text("id,owner,concept\n" + "\n".join(lines))
    return folder


def config(path: Path, **settings) -> DataConfig:
    return DataConfig(name="folder", path=str(path), **{"image_size": SIDE, "clip_s": 0.5, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "mine")


class TestFolder:
    def test_a_recording_stays_with_its_picture(self, folder: Path) -> None:
        whole = load_folder(config(folder))
        assert whole.kind == "user"
        assert whole.train.target.shape == (len(whole.train), 4000)
        for row, name in enumerate(whole.train_ids):
            index = int(name[1:])
            assert np.array_equal(whole.train.source[row], picture(index))
            assert np.abs(whole.train.target[row, :2400] / 32768 - sound(index)).max() < 1e-4

    def test_rates_are_made_equal(self, tmp_path: Path) -> None:
        pairs = read_pairs(fill(tmp_path / "fast", num=4, rate_hz=44100), config(tmp_path))
        spectrum = np.abs(np.fft.rfft(pairs.target[2, :2400]))
        assert np.fft.rfftfreq(2400, 1 / RATE_HZ)[spectrum.argmax()] == pytest.approx(380.0, abs=5.0)

    def test_the_setting_names_the_rate(self, folder: Path) -> None:
        assert read_pairs(folder, config(folder, sampling_rate_hz=16000)).target.shape == (NUM, 8000)

    def test_everything_wrong_is_named_at_once(self, folder: Path) -> None:
        write_wav(folder / "target" / "p00.wav", np.zeros(4000))
        (folder / "target" / "p01.wav").write_bytes(b"RIFF")
        (folder / "target" / "p02.wav").unlink()
        (folder / "target" / "p02.mp3").write_bytes(b"")
        write_wav(folder / "target" / "p03.wav", np.sign(sound(3)))
        write_wav(folder / "target" / "p04.wav", tone(400.0, seconds=0.9))
        notes: list[str] = []
        found = "\n".join(check_folder(folder, config(folder), notes=notes))
        for text in (
            "p00.wav is silent",
            "p01.wav cannot be read as WAV",
            "(p02.mp3). Convert them to WAV or FLAC",
            "without a file in target/: 1 (p02)",
        ):
            assert text in found
        assert "1 (p04) of 37 recordings are longer than data.clip_s=0.5" in notes[0]
        assert "1 (p03) of 37 recordings are clipped" in notes[1]

    def test_pictures_and_recordings_do_not_mix(self, folder: Path) -> None:
        Image.fromarray(picture(0)).save(folder / "target" / "p00.png")
        with pytest.raises(DataError, match=r"has images \(\.png\) beside audio files. Keep one kind"):
            load_folder(config(folder))

    def test_equal_recordings_are_in_one_part(self, folder: Path) -> None:
        whole = load_folder(config(folder))
        twin, original = whole.test.ids[0], whole.train_ids[0]
        write_wav(folder / "target" / f"{twin}.wav", sound(int(original[1:])))
        again = load_folder(config(folder))
        parts = (again.train_ids, again.validation.ids, again.test.ids)
        assert any({twin, original} <= {*part} for part in parts)
        assert again.test_strict.ids == again.test.ids


class TestArchive:
    def save(self, path: Path, **extra) -> Path:
        arrays = {
            "source": np.stack([picture(index) for index in range(NUM)]),
            "target": np.stack([np.rint(sound(index) * 32768).astype(np.int16) for index in range(NUM)]),
            "target_rate_hz": np.int64(RATE_HZ),
            "id": np.array([f"p{index:02d}" for index in range(NUM)]),
            **extra,
        }
        np.savez(path, **{name: one for name, one in arrays.items() if one is not None})
        return path

    def test_equals_the_folder(self, folder: Path, tmp_path: Path) -> None:
        (folder / "pairs.csv").unlink()
        one = load_folder(config(folder))
        other = load_folder(config(self.save(tmp_path / "mine.npz")))
        assert one.train.fingerprint() == other.train.fingerprint()
        assert one.test.ids == other.test.ids

    @pytest.mark.parametrize(
        ("extra", "text"),
        [
            ({"target_rate_hz": None}, "recordings and target_rate_hz: none"),
            ({"target_rate_hz": np.array([8000])}, "shape=(1,)"),
            ({"target_rate_hz": np.float64(8000)}, "dtype=float64"),
            ({"target_rate_hz": np.int64(3)}, "target_rate_hz=3; allowed"),
            ({"target": np.zeros((NUM, 4000), np.int16)}, "target 0 is silent"),
            ({"target": np.zeros((NUM, 4000), np.float32)}, "has target of dtype=float32"),
        ],
    )
    def test_problems(self, tmp_path: Path, extra: dict, text: str) -> None:
        with pytest.raises(DataError) as caught:
            load_folder(config(self.save(tmp_path / "mine.npz", **extra)))
        assert text in str(caught.value)


class TestOwners:
    def test_the_held_out_owner_is_in_the_test_alone(self, folder: Path) -> None:
        whole = load_folder(config(folder, split="owner", held_out="cy", labels_from="di"))
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        owners = [{OWNERS[int(name[1:]) % 4] for name in ids} for ids in parts]
        assert owners == [{"ann", "bob"}, {"di"}, {"cy"}]
        assert whole.unseen == "owners"

    def test_without_labels_from_the_others_give_some_concepts(self, folder: Path) -> None:
        whole = load_folder(config(folder, split="owner", held_out="ann, cy", val_fraction=0.3))
        others = [
            {OWNERS[int(name[1:]) % 4] for name in ids} for ids in (whole.train_ids, whole.validation.ids)
        ]
        assert others == [{"bob", "di"}] * 2
        words = [{int(name[1:]) // 4 for name in ids} for ids in (whole.train_ids, whole.validation.ids)]
        assert not words[0] & words[1]
        assert {OWNERS[int(name[1:]) % 4] for name in whole.test.ids} == {"ann", "cy"}

    def test_labels_of_their_own(self, folder: Path) -> None:
        named = {"held_out": "ann,cy", "labels_from": "cy, ann", "val_fraction": 0.4}
        whole = load_folder(config(folder, split="owner", **named))
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        owners = [{OWNERS[int(name[1:]) % 4] for name in ids} for ids in parts]
        assert owners == [{"bob", "di"}, {"ann", "cy"}, {"ann", "cy"}]
        words = [{int(name[1:]) // 4 for name in ids} for ids in parts[1:]]
        assert not words[0] & words[1]

    def test_without_names_a_hash_holds_whole_owners_out(self, folder: Path) -> None:
        lines = [f"p{index:02d},owner-{index % 10}" for index in range(NUM)]
        (folder / "pairs.csv").write_text("id,owner\n" + "\n".join(lines))
        whole = load_folder(config(folder, split="owner"))
        parts = [{int(name[1:]) % 10 for name in ids} for ids in
                 (whole.train_ids, whole.validation.ids, whole.test.ids)]  # fmt: skip
        assert sum(map(len, parts)) == 10
        assert min(map(len, parts)) > 0

    def test_the_partition_gives_each_client_one_owner(self, folder: Path) -> None:
        whole = load_folder(config(folder, split="owner", held_out="cy", labels_from="di"))
        parts = partition(
            whole.train_owner, whole.train_labels, whole.train_subgroup, by="owner", num_clients=4, seed=0
        )
        assert [len(np.unique(whole.train_owner.values[rows])) for rows in parts] == [1, 1, 1, 1]

    @pytest.mark.parametrize(
        ("settings", "error", "text"),
        [
            ({"held_out": "ann"}, ConfigError, "Set data.split to 'owner'"),
            ({"split": "owner", "labels_from": "ann"}, ConfigError, "needs data.held_out"),
            ({"split": "owner", "held_out": "anne"}, ConfigError, "Did you mean 'ann'"),
            ({"split": "owner", "held_out": "ann", "labels_from": "ann,bob"}, ConfigError, "share 1 (ann)"),
            ({"split": "owner", "held_out": "ann,bob,cy,di"}, DataError, "0 training, 0 validation, 40 test"),
            ({"split": "speaker"}, ConfigError, "data.split='speaker' is unknown"),
        ],
    )
    def test_settings_that_do_not_fit(self, folder: Path, settings: dict, error: type, text: str) -> None:
        with pytest.raises(error) as caught:
            load_folder(config(folder, **settings))
        assert text in str(caught.value)
        assert check_folder(folder, config(folder, **settings)) == [str(caught.value)]

    def test_a_pair_without_owner(self, folder: Path) -> None:
        text = (folder / "pairs.csv").read_text().replace("p03,di", "p03,")
        (folder / "pairs.csv").write_text(text)
        with pytest.raises(DataError, match=r"unknown for 1 \(p03\)"):
            load_folder(config(folder, split="owner"))
        (folder / "pairs.csv").unlink()
        with pytest.raises(DataError, match=r"in no pairs\.csv"):
            load_folder(config(folder, split="owner"))
