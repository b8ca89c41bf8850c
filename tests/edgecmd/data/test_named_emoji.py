"""The set words: its file again from made-up packages, its splits, its questions, and shared images."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import UNLABELLED
from edgecmd.data.modalities.text import folded
from edgecmd.data.modalities.utf8 import decode_strings
from edgecmd.data.partition import partition
from edgecmd.data.stored.array_files import LazyRows
from edgecmd.datasets import words
from edgecmd.datasets.build.names import words as words_build
from edgecmd.datasets.build.names.words import build_words, word_arrays
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import EMOJIBASE
from edgecmd.datasets.emoji import PAIRS_FILE, load_public, read_shipped
from edgecmd.datasets.pinned import content_sha256, read_pinned
from edgecmd.datasets.word_splits import Names
from edgecmd.datasets.words import load_words, read_names
from edgecmd.settings import DataConfig

# Some languages and a quarter of the emoji, so that a load takes no second.
FEW = ("en", "en-gb", "fi", "ja", "sv")


def config(**settings: object) -> DataConfig:
    return DataConfig(name="words", source_size=16, **settings)


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    """Arrays of the whole file."""
    return read_pinned(shipped_file(words.WORDS_FILE), words.CONTENT_SHA256, way_out="")


@pytest.fixture(scope="module")
def few(shipped: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    """Names of some languages; loaders read these, and each other shipped file once."""
    codes = [shipped["languages"].tolist().index(one) for one in FEW]
    kept = np.isin(shipped["language"], codes) & (shipped["emoji"] % 4 == 0)
    lines = np.array(shipped["text"].tobytes().split(b"\n"), dtype=object)
    some = {
        **{name: shipped[name][kept] for name in ("emoji", "is_label")},
        "language": np.searchsorted(codes, shipped["language"][kept]).astype(np.uint8),
        "text": np.frombuffer(b"\n".join(lines[kept]), dtype=np.uint8),
        "concept": shipped["concept"],
        "languages": np.array(FEW),
    }
    folder, public = tmp_path_factory.mktemp("few"), load_public(image_size=16)
    with pytest.MonkeyPatch.context() as patch:
        use(some, folder, patch)
        names = read_names(num_bytes=48)
        patch.setattr(words, "read_names", lambda **_: names)
        patch.setattr(words, "read_shipped", cache(read_shipped))
        patch.setattr(words, "load_public", lambda **_: public)
        yield names


def use(arrays: Mapping[str, np.ndarray], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let loaders read ``arrays`` as the shipped file."""
    (folder / words.WORDS_FILE).write_bytes(npz_bytes(arrays))
    patch.setattr(words, "shipped_file", lambda name: folder / name)
    patch.setattr(words, "CONTENT_SHA256", content_sha256(arrays))


@pytest.fixture(scope="module")
def by_string(few: Names) -> Experiment:
    assert few.languages == FEW
    return load_experiment(config(split="string"))


def texts(held) -> list[str]:
    return decode_strings(np.asarray(held.target))


class TestBuild:
    CONCEPTS = np.array(["1f34e", "2764"])

    def members(self) -> dict[str, bytes]:
        english = [
            {"label": "red apple", "hexcode": "1F34E", "tags": ["Apple", "fruit", "apple", "RED  APPLE"]},
            {"label": "red heart", "hexcode": "2764-FE0F"},
            {"label": "person", "hexcode": "1F9D1", "tags": ["adult"]},
        ]
        german = [{"label": "roter Apfel", "hexcode": "1F34E", "tags": ["a\u0308pfel"]}]
        tables = {"en/data.json": english, "de/data.json": german}
        return {**{name: json.dumps(rows).encode() for name, rows in tables.items()}, "LICENSE": b"MIT"}

    def test_rows_by_hand(self) -> None:
        arrays = word_arrays(self.members(), concepts=self.CONCEPTS)
        assert arrays["languages"].tolist() == ["de", "en"]
        lines = arrays["text"].tobytes().decode().split("\n")
        rows = list(
            zip(
                arrays["languages"][arrays["language"]].tolist(),
                arrays["concept"][arrays["emoji"]].tolist(),
                lines,
                arrays["is_label"].tolist(),
                strict=True,
            )
        )
        # Case and white space make no second string; what is not NFC becomes it; other emoji are left out.
        assert rows == [
            ("de", "1f34e", "roter Apfel", True),
            ("de", "1f34e", "äpfel", False),
            ("en", "1f34e", "red apple", True),
            ("en", "1f34e", "Apple", False),
            ("en", "1f34e", "fruit", False),
            ("en", "2764", "red heart", True),
        ]

    def test_the_shipped_file_is_not_replaced_by_another(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path
    ) -> None:
        monkeypatch.setattr(words_build, "gather", lambda *_, **__: {"names": self.members()})
        before = (words_build.FOLDER / words.WORDS_FILE).read_bytes()
        with pytest.raises(DataError, match="was left unchanged"):
            build_words()
        assert (words_build.FOLDER / words.WORDS_FILE).read_bytes() == before
        built = build_words(tmp_path)
        # Two more name the person, who is an emoji of the shipped pairs.
        assert (built.num_rows, built.is_identical) == (8, False)
        assert "DIFFERS" in str(built)

    def test_the_package_is_pinned_with_its_licence(self) -> None:
        assert EMOJIBASE.pinned == "emojibase-data@17.0.0"
        assert "LICENSE" in EMOJIBASE.members


def test_the_shipped_file(shipped: dict[str, np.ndarray]) -> None:
    assert len(shipped["emoji"]) == 246_281
    assert len(shipped["languages"]) == 28
    assert shipped["concept"].tolist() == sorted({*read_shipped(PAIRS_FILE)["concept"].tolist()})
    lines = np.array(shipped["text"].tobytes().decode().split("\n"), dtype=object)
    apple = shipped["emoji"] == shipped["concept"].tolist().index("1f34e")
    german = shipped["language"] == shipped["languages"].tolist().index("de")
    assert lines[apple & german & shipped["is_label"]].tolist() == ["roter Apfel"]
    # One label at most for each emoji in each language, and no row twice.
    labels = np.stack([shipped["language"], shipped["emoji"]])[:, shipped["is_label"]]
    assert len(np.unique(labels, axis=1).T) == shipped["is_label"].sum()
    every = zip(shipped["language"].tolist(), shipped["emoji"].tolist(), lines.tolist(), strict=True)
    assert len({(*row, line.casefold()) for *row, line in every}) == 246_281


def test_licences_that_the_names_ask_for_are_beside_them() -> None:
    text = " ".join(shipped_file(words.NOTICE_FILE).read_text(encoding="utf-8").split())
    assert "UNICODE LICENSE V3 COPYRIGHT AND PERMISSION NOTICE Copyright © 2004-2025 Unicode, Inc." in text
    assert "MIT License Copyright (c) 2017-2019 Miles Johnson" in text
    assert "this copyright and permission notice appear with all copies of the Data Files" in text


def test_an_emoji_is_called_by_its_label_in_english(few: Names) -> None:
    names = dict(zip(few.concepts, few.titles, strict=True))
    told = {few.concepts[code] for code in np.unique(few.emoji)}
    assert len({names[one] for one in told}) == len(told) > 350
    assert [names[one] for one in ("1f34e", "1f9d1-200d-1f33e")] == ["red apple", "farmer"]
    # The keycap's frame has no name in any language.
    assert names["20e3"] == ""


class TestByString:
    def test_a_held_out_string_is_in_no_language_of_training(self, by_string: Experiment) -> None:
        known = {one.casefold() for one in texts(by_string.train)}
        for held in (by_string.validation, by_string.test):
            asked = [one.casefold() for one in texts(held.pairs)]
            assert len({*asked}) == len(asked)
            assert not known & {*asked}
        assert by_string.unseen == "strings"
        assert by_string.test_strict is by_string.test

    def test_every_string_and_emoji_is_in_one_part(self, by_string: Experiment, few: Names) -> None:
        # What two languages share is one answer, so answers are fewer than pairs.
        answers = sum(one.right.nnz for one in (by_string.validation, by_string.test))
        emoji = by_string.train.source.parts()[0][2]
        training = {*zip([folded(one) for one in texts(by_string.train)], emoji.tolist(), strict=True)}
        different = len(np.unique(np.stack([few.string, few.emoji]), axis=1).T)
        assert answers + len(training) == different < len(few)
        # Five standard errors of a share of so many strings.
        share, num = len(by_string.test) / len(few.keys), len(few.keys)
        assert share == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / num))

    def test_right_are_all_emoji_of_a_string_in_any_language(self, by_string: Experiment, few: Names) -> None:
        held = by_string.test
        several = int(np.diff(held.right.indptr).argmax())
        code = few.keys.index(folded(texts(held.pairs)[several]))
        assert {*held.right[[several]].indices.tolist()} == {*few.emoji[few.string == code].tolist()}
        # Its own source is one of them.
        own = held.pairs.source.parts()[0][2]
        assert np.asarray(held.right[np.arange(len(held)), own]).all()

    def test_a_question_has_the_group_of_all_its_emoji_or_none(self, by_string: Experiment) -> None:
        held = by_string.validation
        group = held.labelled.labels["group"].values
        single = np.diff(held.right.indptr) == 1
        assert (group[~single] == UNLABELLED).any()
        assert (group[single] == UNLABELLED).sum() == 0

    def test_a_question_has_the_language_that_alone_has_the_string_or_none(
        self, by_string: Experiment, few: Names
    ) -> None:
        spoken: dict[str, set[str]] = {}
        for string, language in zip(few.string.tolist(), few.language.tolist(), strict=True):
            spoken.setdefault(few.keys[string], set()).add(few.languages[language])
        held = by_string.test
        found = held.labelled.labels["language"]
        told = [{found.names[one]} if one != UNLABELLED else None for one in found.values.tolist()]
        every = [spoken[folded(one)] for one in texts(held.pairs)]
        assert told == [one if len(one) == 1 else None for one in every]
        assert None in told

    def test_images_are_held_once(self, by_string: Experiment) -> None:
        bases = [
            one.source.parts()[0][0]
            for one in (by_string.train, by_string.validation.pairs, by_string.test.pairs)
        ]
        assert isinstance(by_string.train.source, LazyRows)
        assert all(base is by_string.test.gallery.source for base in bases)
        assert len(by_string.test.gallery.source) == 1600

    def test_the_gallery_is_public_the_same_whatever_pairs_there_are(self, by_string: Experiment) -> None:
        other = load_experiment(config(split="concept"))
        assert len(other.train) != len(by_string.train)
        assert np.array_equal(other.public_things, by_string.public_things)
        assert len(by_string.public_things) == len(by_string.train_concept.names)

    def test_languages_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="Set data.split to 'owner'"):
            load_words(config(split="string", held_out="fi"))


@pytest.mark.usefixtures("few")
def test_by_concept_no_emoji_of_the_test_is_in_training_nor_public() -> None:
    whole = load_words(config(split="concept"))
    shipped = read_shipped(PAIRS_FILE)
    part_of = dict(zip(shipped["concept"].tolist(), shipped["split"].tolist(), strict=True))
    concepts = sorted(part_of)
    parts = np.array([part_of[one] for one in concepts])
    assert {*parts[whole.train.source.parts()[0][2]].tolist()} == {0}
    assert {*parts[np.unique(whole.test.right.indices)].tolist()} == {2}
    assert {*parts[np.unique(whole.validation.right.indices)].tolist()} == {1}
    assert not {one.casefold() for one in texts(whole.test.pairs)} & {
        one.casefold() for one in texts(whole.train)
    }
    public = {key.split("/")[1] for key in whole.public.keys}
    assert not public & {concepts[row] for row in whole.test.right.indices}


@pytest.mark.usefixtures("few")
class TestByLanguage:
    def test_a_language_and_its_strict_test(self) -> None:
        whole = load_words(config(split="owner", held_out="fi,ja"))
        owners = {whole.train_owner.names[code] for code in np.unique(whole.train_owner.values)}
        assert owners == {"en", "en-gb", "sv"}
        known = {one.casefold() for one in texts(whole.train)}
        strict = {one.casefold() for one in texts(whole.test_strict.pairs)}
        asked = {one.casefold() for one in texts(whole.test.pairs)}
        assert strict == asked - known < asked
        assert not known & {one.casefold() for one in texts(whole.validation.pairs)}

    @pytest.mark.parametrize(
        ("given", "languages"), [("fi", {"fi"}), ("sv", {"sv"}), ("", None)], ids=["own", "another", "hash"]
    )
    def test_where_the_validation_is_from(self, given: str, languages: set[str] | None) -> None:
        whole = load_words(config(split="owner", held_out="fi", labels_from=given))
        found = whole.validation.labelled.labels["language"]
        told = {found.names[code] for code in np.unique(found.values) if code != UNLABELLED}
        # What is asked of English here is a string of British English, too.
        assert told == (languages or {"en-gb", "ja", "sv"})
        assert not {"fi", given} & {
            whole.train_owner.names[one] for one in np.unique(whole.train_owner.values)
        }

    @pytest.mark.parametrize("held_out", ["", "all"])
    def test_no_language_or_all_of_them_are_refused(self, held_out: str) -> None:
        given = ",".join(FEW) if held_out else ""
        with pytest.raises(ConfigError, match="needs languages in data.held_out"):
            load_words(config(split="owner", held_out=given))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "strings"}, r"data\.split='strings'.*string"),
        ({"split": "owner", "held_out": "fj"}, "names 'fj', who owns no pairs"),
    ],
)
def test_what_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_words(config(**settings))


def test_a_source_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="Allowed: 16, 32, 64"):
        load_words(DataConfig(name="words", source_size=48))


@pytest.mark.parametrize("num_clients", [5, 50, 500])
def test_languages_and_users_as_clients(by_string: Experiment, num_clients: int) -> None:
    parts = {
        by: partition(
            by_string.train_owner,
            by_string.train_labels,
            by_string.train_subgroup,
            by=by,
            num_clients=num_clients,
            seed=0,
        )
        for by in ("owner", "users")
    }
    for rows in parts.values():
        assert sum(map(len, rows)) == len(by_string.train)
        spoken = [len(np.unique(by_string.train_owner.values[one])) for one in rows]
        # A user is topped up from another language only where he would have less than two pairs.
        assert np.mean(spoken) < 1.05


def test_strings_that_are_cut_alike_are_one_string(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    english = [{"label": "Alpha beta", "hexcode": "1F34E", "tags": ["alpha bets"]}]
    made = word_arrays({"en/data.json": json.dumps(english).encode()}, concepts=np.array(["1f34e"]))
    use(made, tmp_path, monkeypatch)
    assert read_names(num_bytes=48).keys == ("alpha beta", "alpha bets")
    cut = read_names(num_bytes=8)
    assert (cut.keys, cut.string.tolist(), cut.text.shape) == (("alpha be",), [0, 0], (2, 8))
