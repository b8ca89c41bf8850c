"""The set `stamps`: built from a made-up folder, read, split, and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import MANIFEST, is_built, read_manifest
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import Experiment, HeldOut, load_experiment
from edgecmd.data.modalities.table import MODALITIES
from edgecmd.datasets import stamps as loader
from edgecmd.datasets.build import stamp_files as tree
from edgecmd.datasets.build.raster import read_picture
from edgecmd.datasets.build.stamp_files import LeftOut, concepts_of, find_pictures, find_voices
from edgecmd.datasets.build.stamps import INSTALLED, build_stamps
from edgecmd.models.teacher.teachers import load_teacher
from edgecmd.settings import DataConfig
from tests.made_up_sound import tone, write_wav
from tests.made_up_stamps import LANGUAGES, NAMES, write_stamps

pytest.importorskip("resvg_py")
CONFIG = DataConfig(name="stamps", clip_s=1.5, source_size=32)
# By language: 3 x 6, and a number in two, a cake in English, a plum in Danish, a cow's own voice.
NUM_PAIRS = 18 + 2 + 1 + 1 + 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    copyright_file = folder / "doc" / "tuxpaint-stamps-default" / "copyright"
    copyright_file.parent.mkdir(parents=True)
    copyright_file.write_text("Copyright: 2002 by somebody\n")
    return write_stamps(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    said: list[str] = []
    line = build_stamps(root, folder / "stamps", say=said.append)
    assert f"{NUM_PAIRS} pairs (real) of 6 images and 5 concepts" in line
    assert "note: left out, clipped: 1 (food/pie_desc_es)" in said
    return folder


@pytest.fixture
def built(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECMD_DATA", str(home))
    monkeypatch.setattr(loader, "MIN_PART", 1)
    return home / "stamps"


def parts_of(whole: Experiment) -> list[tuple[str, ...]]:
    return [whole.train_ids, whole.validation.ids, whole.test.ids]


def language_of(name: str) -> str:
    return name.rsplit("_desc_", 1)[1] if "_desc_" in name else ""


class TestTree:
    def test_pictures_without_turned_copies_and_png_first(self, root: Path, tmp_path: Path) -> None:
        found = find_pictures(root)
        assert sorted(found) == sorted([*NAMES, "food/snow", "food/torn"])
        for suffix in ("svg", "png"):
            (tmp_path / f"a.{suffix}").write_bytes(b"")
        assert find_pictures(tmp_path) == {"a": tmp_path / "a.png"}

    def test_who_says_what(self, root: Path) -> None:
        left_out = LeftOut()
        voices = {one.id: one for one in find_voices(root, find_pictures(root), left_out)}
        expected = {
            "animals/cow": ("animals/cow", "effect"),
            "symbols/math/7": ("symbols/math/7", "en"),
            "symbols/math/7_zh_tw": ("symbols/math/7", "zh_tw"),
            "food/pie_desc": ("food/pie", "en"),
            "food/plum_desc_da": ("food/plum", "da"),
            "animals/toys/cow2_desc_ro": ("animals/toys/cow2", "ro"),
        }
        assert {key: (voices[key].stamp, voices[key].language) for key in expected} == expected
        assert left_out.reasons == {"without an image": ["animals/nobody_desc_fr"]}

    def test_one_word_one_concept(self, root: Path, tmp_path: Path) -> None:
        stamps = find_pictures(root)
        concepts = concepts_of(stamps, find_voices(root, stamps, LeftOut()))
        # The same English text.
        assert concepts["animals/toys/cow2"] == concepts["animals/cow"] == "animals/cow"
        assert concepts["food/pie"] == "food/pie"
        # The same recording, and joined through a third.
        for name in "abcd":
            (tmp_path / f"{name}.png").write_bytes(b"")
        write_wav(tmp_path / "d_desc_fr.wav", tone(500.0))
        shutil.copy(tmp_path / "d_desc_fr.wav", tmp_path / "b_desc_fr.wav")
        (tmp_path / "c.txt").write_text("A Thing!\n")
        (tmp_path / "b.txt").write_text("a thing")
        stamps = find_pictures(tmp_path)
        joined = concepts_of(stamps, find_voices(tmp_path, stamps, LeftOut()))
        assert joined == {"a": "a", "b": "b", "c": "b", "d": "b"}

    def test_pictures_keep_their_shape_on_white(self, root: Path) -> None:
        # 20 by 40 points into 16: 8 wide, 16 high, in the middle.
        tall = read_picture(root / "animals/birds/owl.svg", 16)
        assert np.abs(tall[:, 5:11].astype(int) - (0, 0, 204)).max() <= 3
        assert (tall[:, :4] == 255).all()
        assert (tall[:, 12:] == 255).all()
        wide = read_picture(root / "animals/cow.png", 16)
        assert (wide[5:11] == (30, 0, 200)).all()
        assert (wide[:4] == 255).all()

    @pytest.mark.parametrize("content", [b"", b"<svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
    def test_pictures_that_are_none(self, tmp_path: Path, content: bytes) -> None:
        for suffix in ("svg", "png"):
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(content)
            if suffix == "png" or content != b"<svg xmlns='http://www.w3.org/2000/svg'/>":
                with pytest.raises(DataError, match="cannot be read as a picture"):
                    read_picture(path, 16)


class TestBuild:
    def test_what_is_written(self, built: Path) -> None:
        names = sorted(one.name for one in built.iterdir())
        assert names == ["NOTICE", "built.json", "pairs.npz", "waves.npy"]
        manifest = read_manifest("stamps")
        assert is_built("stamps")
        assert (manifest["kind"], manifest["num_pairs"], manifest["num_concepts"]) == ("real", NUM_PAIRS, 5)
        assert manifest["left_out"] == {
            "without an image": 1, "clipped": 1, "silent": 1, "unreadable": 1, "unreadable picture": 1,
            "blank picture": 1,
        }  # fmt: skip
        assert manifest["languages"] == {
            "fr": 6, "ro": 6, "ru": 6, "en": 2, "da": 1, "effect": 1, "zh_tw": 1
        }  # fmt: skip
        notice = (built / "NOTICE").read_text()
        for text in ("GPL-2", "Bill Kendrick", "Copyright: 2002 by somebody"):
            assert text in notice

    def test_every_pair_is_picture_and_its_own_sound(self, built: Path) -> None:
        with np.load(built / "pairs.npz") as archive:
            arrays = {key: archive[key] for key in archive.files}
        line = np.load(built / "waves.npy")
        assert arrays["length"].sum() == len(line)
        ends = np.cumsum(arrays["length"])
        assert arrays["length"].max() == 16000  # three seconds are cut at two
        for name, row, end, length in zip(arrays["id"], arrays["row"], ends, arrays["length"], strict=True):
            stamp = str(arrays["stamp"][row])
            assert str(name).startswith(stamp)
            language = language_of(str(name))
            if language in LANGUAGES:
                wave = line[end - length : end].astype(float)[:2400]
                pitch = np.fft.rfftfreq(len(wave), 1 / 8000)[np.abs(np.fft.rfft(wave)).argmax()]
                expected = 300 + 150 * NAMES.index(stamp) + 20 * LANGUAGES.index(language)
                assert pitch == pytest.approx(expected, abs=6)

    def test_equal_files_give_equal_arrays(self, built: Path, root: Path, tmp_path: Path) -> None:
        build_stamps(root, tmp_path)
        first, again = (json.loads((one / MANIFEST).read_text()) for one in (built, tmp_path))
        assert first == again

    def test_languages(self, root: Path, tmp_path: Path) -> None:
        assert "12 pairs" in build_stamps(root, tmp_path, languages=("fr", "ro"))
        with pytest.raises(DataError, match=r"names xx, for which.*Allowed: da, effect, el, en, es, fr"):
            build_stamps(root, tmp_path, languages=("fr", "xx"))

    def test_folders_that_do_not_do(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere is not a folder.*apt install tuxpaint-stamps-default"):
            build_stamps(tmp_path / "nowhere")
        with pytest.raises(DataError, match="has no stamps"):
            build_stamps(tmp_path)
        (tmp_path / "a.png").write_bytes(b"")
        write_wav(tmp_path / "a.wav", tone(300.0))
        with pytest.raises(DataError, match=r"has no usable recording.*unreadable picture: 1 \(a\)"):
            build_stamps(tmp_path)

    @pytest.mark.slow
    @pytest.mark.skipif(not INSTALLED.is_dir(), reason="Debian's tuxpaint-stamps-default is not installed")
    def test_the_installed_package(self) -> None:
        stamps = find_pictures(INSTALLED)
        left_out = LeftOut()
        voices = find_voices(INSTALLED, stamps, left_out)
        concepts = concepts_of(stamps, voices)
        assert len(stamps) == 950
        assert len(voices) > 7_800
        assert len({concepts[one.stamp] for one in voices}) == 755
        assert (
            concepts["symbols/alphabets/english/filled/uppercase/A_filled"]
            == (concepts["symbols/alphabets/english/outlined/lowercase/a_outline"])
        )


class TestLoad:
    def test_no_word_of_the_test_was_heard_in_any_language(self, built: Path) -> None:
        whole = load_experiment(CONFIG)
        assert (whole.kind, whole.unseen) == ("real", "concepts")
        assert sum(map(len, parts_of(whole))) == NUM_PAIRS
        concepts = [
            {whole.train_concept.names[value] for value in whole.train_concept.values},
            *(
                {held.labelled.labels["concept"].names[value] for value in held.shown}
                for held in (whole.validation, whole.test)
            ),
        ]
        assert sum(map(len, concepts)) == len(set.union(*concepts)) == 5
        sounds = [{one.tobytes() for one in part} for part in (whole.train.target, whole.test.pairs.target)]
        assert not sounds[0] & sounds[1]
        assert whole.train.source.shape[1:] == (32, 32, 3)
        assert whole.train.target.shape[1:] == (12000,)

    def test_an_unseen_language_of_seen_things(self, built: Path) -> None:
        whole = load_experiment(replace(CONFIG, split="owner", held_out="ro", val_fraction=0.3))
        assert whole.unseen == "languages"
        assert {language_of(name) for name in whole.test.ids} == {"ro"}
        assert "ro" not in {language_of(name) for name in (*whole.train_ids, *whole.validation.ids)}
        known = set(whole.train_concept.values.tolist())
        assert set(whole.test.shown.tolist()) <= known
        assert set(whole.validation.shown.tolist()) <= known
        assert whole.test.labelled.labels["group"].names == ("animals", "food", "symbols")

    def test_unheard_names_in_heard_languages(self, built: Path) -> None:
        whole = load_experiment(replace(CONFIG, split="pair", test_fraction=0.3, val_fraction=0.2))
        assert whole.unseen == "recordings"
        train, validation, test = map(set, parts_of(whole))
        assert test
        assert len(train | validation | test) == len(train) + len(validation) + len(test)
        assert set(whole.test.shown.tolist()) <= set(whole.train_concept.values.tolist())
        # Both cows' names in one language are on one side.
        for language in LANGUAGES:
            both = {f"{name}_desc_{language}" for name in ("animals/cow", "animals/toys/cow2")}
            assert sum(bool(both & part) for part in (train, validation, test)) <= 1

    def test_things_that_only_the_held_out_language_names_are_not_asked_for(self, built: Path) -> None:
        whole = load_experiment(replace(CONFIG, split="owner", held_out="fr,ro,ru", labels_from="en"))
        assert whole.train_ids == ("animals/cow", "food/plum_desc_da", "symbols/math/7_zh_tw")
        # The cake is named in English too, but nothing in training names it.
        assert whole.validation.ids == ("symbols/math/7",)
        asked = {name.rsplit("_desc", 1)[0] for name in whole.test.ids}
        assert asked == {"animals/cow", "animals/toys/cow2", "food/plum", "symbols/math/7"}

    def test_labels_of_the_held_out_language(self, built: Path) -> None:
        whole = load_experiment(
            replace(CONFIG, split="owner", held_out="ro", labels_from="ro", val_fraction=0.5)
        )
        assert {language_of(name) for name in (*whole.validation.ids, *whole.test.ids)} == {"ro"}
        assert len(whole.train_ids) == NUM_PAIRS - 6

    def test_a_recording_that_training_has_is_not_in_the_strict_test(
        self, built: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = replace(MODALITIES["wave"], looks_known=lambda test, train: np.arange(len(test)) == 0)
        monkeypatch.setitem(MODALITIES, "wave", row)
        config = replace(CONFIG, split="owner", held_out="ro", val_fraction=0.3)
        whole = load_experiment(config)
        assert whole.test_strict.ids == whole.test.ids[1:]
        loose = load_experiment(replace(config, strict=False))
        assert loose.test_strict is loose.test

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"split": "owner"}, "needs data.held_out for data.name='stamps'"),
            ({"split": "owner", "held_out": "rp"}, "'rp', who owns no pairs. Allowed: da, effect"),
            ({"held_out": "ro"}, "Set data.split to 'owner'"),
            ({"split": "pair", "labels_from": "ro"}, "data.split='pair' does not follow"),
            ({"split": "owner", "held_out": "ro", "labels_from": "ro,fr"}, "share 1 (ro) and differ"),
            ({"split": "owner", "held_out": "da"}, "leave"),
            ({"clip_s": 2.5}, "Allowed: 8000, and 2.0 or less"),
            ({"sampling_rate_hz": 16000}, "do not suit data.name='stamps'"),
            ({"source_size": 48}, "Allowed: 16, 32, 64"),
            ({"split": "speaker"}, "data.split"),
        ],
    )
    def test_settings_that_do_not_fit(
        self, built: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, text: str
    ) -> None:
        monkeypatch.setattr(loader, "MIN_PART", 2)
        with pytest.raises(ConfigError) as caught:
            load_experiment(replace(CONFIG, **settings))
        assert text in str(caught.value)

    def test_not_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGECMD_DATA", str(tmp_path))
        with pytest.raises(DataError, match="edgecmd data build stamps"):
            load_experiment(CONFIG)
        # Its teacher is the shipped one, which needs no build.
        assert load_teacher(data_set="stamps").sha256 == load_teacher(data_set="emoji").sha256

    @pytest.mark.parametrize("name", ["pairs.npz", "waves.npy", MANIFEST])
    def test_damage_is_found(
        self, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        shutil.copytree(built, tmp_path / "stamps")
        monkeypatch.setenv("EDGECMD_DATA", str(tmp_path))
        damaged = tmp_path / "stamps" / name
        damaged.write_text("{}") if name == MANIFEST else damaged.write_bytes(damaged.read_bytes() + b"x")
        with pytest.raises(DataError):
            load_experiment(CONFIG)

    def test_codes_of_what_is_shown_must_fit(self, built: Path) -> None:
        test = load_experiment(CONFIG).test
        with pytest.raises(DataError, match="HeldOut.shown has 1 codes"):
            HeldOut(pairs=test.pairs, labelled=test.labelled, shown=np.zeros(1, np.int64))


def test_languages_of_the_tree_are_told_by_their_shape() -> None:
    assert tree.SPOKEN.fullmatch("a_desc_en_GB")["language"] == "en_GB"
    assert tree.SPOKEN.fullmatch("a_desc_FR") is None
