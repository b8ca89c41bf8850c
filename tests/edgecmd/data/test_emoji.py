"""The built-in set: content, splits, strict test set, sizes, damage."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import Experiment, HeldOut, load_experiment
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.pairs import PairedData
from edgecmd.datasets import emoji
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.pinned import content_sha256
from edgecmd.settings import DataConfig

HELD_OUT = ("validation", "test", "test_strict")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(DataConfig())


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return emoji.read_shipped(emoji.PAIRS_FILE)


def concepts(ids: tuple[str, ...]) -> set[str]:
    return {one.split("/")[1] for one in ids}


def test_counts(experiment: Experiment) -> None:
    counts = [len(experiment.train), *(len(getattr(experiment, name)) for name in HELD_OUT)]
    assert counts == [2017, 302, 632, 520]
    assert len(experiment.public) == 1447
    assert (experiment.name, experiment.kind) == ("emoji", "real")


def test_loading_is_quick() -> None:
    start = time.process_time()
    load_experiment(DataConfig())
    # Half a second where measured; room for a slow machine.
    assert time.process_time() - start < 3


def test_shapes_and_paper(experiment: Experiment) -> None:
    assert experiment.train.source.shape == (2017, 64, 64, 3)
    assert experiment.train.target.shape == (2017, 64, 64, 1)
    # Black ink on white paper: the commonest value of a drawing is white.
    assert np.median(experiment.train.target) == 255
    assert (experiment.train.target.min(axis=(1, 2, 3)) < 255 - 39).all()


def test_labels_stand_beside_their_target(experiment: Experiment, arrays: dict[str, np.ndarray]) -> None:
    rows = np.flatnonzero(arrays["split"] == 2)
    held = experiment.test
    assert np.array_equal(held.pairs.target[..., 0], 255 - arrays["sketch"][rows])
    assert np.array_equal(held.labelled.target, held.pairs.target)
    group = held.labelled.labels["group"]
    assert [group.names[v] if v >= 0 else None for v in group.values[:50]] == [
        arrays["label_names"][v] if v < 8 else None for v in arrays["label"][rows[:50]]
    ]
    style = held.labelled.labels["style"]
    assert [f"{style.names[s]}" for s in style.values] == [one.split("/")[0] for one in held.ids]
    concept = held.labelled.labels["concept"]
    assert [concept.names[c] for c in concept.values] == [one.split("/")[1] for one in held.ids]


def test_labellings(experiment: Experiment) -> None:
    labels = experiment.test.labelled.labels
    assert {name: len(one.names) for name, one in labels.items()} == {
        "group": 8,
        "subgroup": 54,
        "concept": 1600,
        "style": 2,
    }
    assert labels["style"].names == ("fluent", "noto")
    # One drawing of the test split belongs to none of the eight groups.
    assert (labels["group"].values == UNLABELLED).sum() == 1
    assert (experiment.train_labels.values == UNLABELLED).sum() == 0


@pytest.mark.parametrize("threshold", [1, 20, 60])
def test_rare_subgroups_are_unlabelled(arrays: dict[str, np.ndarray], threshold: int) -> None:
    labels = emoji.labellings(arrays, min_subgroup_pairs=threshold)["subgroup"]
    counts = Counter(arrays["subgroup"].tolist())
    expected = [name if counts[name] >= threshold else None for name in arrays["subgroup"].tolist()]
    assert [labels.names[v] if v >= 0 else None for v in labels.values] == expected
    assert sorted(labels.names) == sorted(name for name, count in counts.items() if count >= threshold)


def test_drop_rare_keeps_what_was_unlabelled() -> None:
    labels = Labels(values=np.array([0, 2, 2, UNLABELLED, 1]), names=("a", "b", "c"))
    kept = emoji.drop_rare(labels, min_pairs=2)
    assert kept.names == ("c",)
    assert kept.values.tolist() == [UNLABELLED, 0, 0, UNLABELLED, UNLABELLED]


def test_splits_are_disjoint_by_concept(experiment: Experiment) -> None:
    parts = [concepts(experiment.train_ids), *(concepts(getattr(experiment, n).ids) for n in HELD_OUT[:2])]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1600


def test_three_sets_are_disjoint(experiment: Experiment) -> None:
    held = concepts(experiment.validation.ids) | concepts(experiment.test.ids)
    public = concepts(experiment.public.keys)
    assert not public & held
    assert not concepts(experiment.train_ids) & held
    parts = [experiment.train, experiment.validation.pairs, experiment.test.pairs]
    pictures = {image.tobytes() for part in parts for image in part.source}
    public_pictures = {image.tobytes() for image in experiment.public.images}
    assert not pictures & public_pictures
    assert len(public_pictures) == len(experiment.public)


def test_public_set_has_no_tones_flags_or_blanks(experiment: Experiment) -> None:
    assert {key.split("/")[0] for key in experiment.public.keys} == {"twemoji", "fxemoji"}
    assert len(set(experiment.public.keys)) == len(experiment.public)
    for key in experiment.public.keys:
        parts = key.split("/")[1].split("-")
        assert "fe0f" not in parts
        assert not any(0x1F3FB <= int(part, 16) <= 0x1F3FF for part in parts)
        assert not any(0x1F1E6 <= int(part, 16) <= 0x1F1FF for part in parts)
    assert (experiment.public.images.min(axis=(1, 2, 3)) < 250).all()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    small = [
        one.reshape(32, 2, 32, 2).astype(np.float64).mean(axis=(1, 3)).ravel() for one in (first, second)
    ]
    return float(np.corrcoef(*small)[0, 1])


def test_strict_set_against_a_slow_loop(experiment: Experiment) -> None:
    strict = set(experiment.test_strict.ids)
    dropped = [row for row, one in enumerate(experiment.test.ids) if one not in strict]
    kept = [row for row, one in enumerate(experiment.test.ids) if one in strict]
    for row in (*dropped[:3], *kept[:3]):
        target = experiment.test.pairs.target[row, ..., 0]
        largest = max(correlation(target, other) for other in experiment.train.target[..., 0])
        assert (largest <= 0.9) == (row in kept)


def test_strict_set_is_part_of_the_test_set(experiment: Experiment) -> None:
    rows = [experiment.test.ids.index(one) for one in experiment.test_strict.ids]
    assert rows == sorted(rows)
    assert np.array_equal(experiment.test.pairs.source[rows], experiment.test_strict.pairs.source)


def test_strict_off_keeps_the_test_set() -> None:
    loaded = load_experiment(DataConfig(strict=False))
    assert loaded.test_strict.ids == loaded.test.ids


def test_loading_is_deterministic(experiment: Experiment) -> None:
    again = load_experiment(DataConfig())
    assert again.train.fingerprint() == experiment.train.fingerprint()
    assert again.test_strict.ids == experiment.test_strict.ids


@pytest.mark.parametrize("side", [16, 32])
def test_smaller_images_are_box_means(experiment: Experiment, side: int) -> None:
    small = load_experiment(DataConfig(image_size=side))
    block = 64 // side
    assert small.train.source.shape == (2017, side, side, 3)
    assert small.train.target.shape == (2017, side, side, 1)
    assert small.public.images.shape == (1447, side, side, 3)
    for row, y, x in ((0, 3, 5), (99, 11, 7), (2016, 15, 15)):
        patch = experiment.train.source[row, y * block : (y + 1) * block, x * block : (x + 1) * block]
        expected = np.floor(patch.reshape(-1, 3).mean(axis=0) + 0.5)
        assert np.array_equal(small.train.source[row, y, x], expected)
    # The strict set does not depend on the size that the student sees.
    assert small.test_strict.ids == experiment.test_strict.ids


@pytest.mark.parametrize("side", [48, 128])
def test_size_that_does_not_divide(side: int) -> None:
    with pytest.raises(ConfigError, match=rf"image_size={side}.*Allowed: 16, 32, 64"):
        load_experiment(DataConfig(image_size=side))


def test_unknown_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data.name='emojy'.*Did you mean 'emoji'"):
        load_experiment(DataConfig(name="emojy"))
    assert set(DATA_SETS) >= {"digits", "emoji", "emoji-full", "folder", "stamps"}


def test_content_hash_sees_names_types_and_values() -> None:
    arrays = {"a": np.zeros(3, np.uint8), "b": np.ones(3, np.uint8)}
    base = content_sha256(arrays)
    assert content_sha256(dict(reversed(arrays.items()))) == base
    assert content_sha256({"a": arrays["b"], "b": arrays["a"]}) != base
    assert content_sha256({"a": arrays["a"], "c": arrays["b"]}) != base
    assert content_sha256({"a": arrays["a"].astype(np.int8), "b": arrays["b"]}) != base


@pytest.mark.parametrize("name", [emoji.PAIRS_FILE, emoji.PUBLIC_FILE])
def test_pinned_content(name: str) -> None:
    assert content_sha256(emoji.read_shipped(name)) == emoji.CONTENT_SHA256[name]


def test_one_changed_pixel_is_refused(tmp_path: Path) -> None:
    arrays = emoji.read_shipped(emoji.PUBLIC_FILE)
    arrays["image"][7, 1, 2, 0] ^= 1
    (tmp_path / emoji.PUBLIC_FILE).write_bytes(npz_bytes(arrays))
    with pytest.raises(DataError, match=r"public_64\.npz has content sha256=.*edgecmd data build emoji"):
        emoji.read_shipped(emoji.PUBLIC_FILE, folder=tmp_path)


@pytest.mark.parametrize("cut", [0, 100, -5000, -30])
def test_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    content = (emoji.FOLDER / emoji.PUBLIC_FILE).read_bytes()
    (tmp_path / emoji.PUBLIC_FILE).write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"public_64\.npz is damaged.*edgecmd data build emoji"):
        emoji.read_shipped(emoji.PUBLIC_FILE, folder=tmp_path)


@pytest.mark.parametrize("offset", [2, 500, 700_000])
def test_flipped_byte_is_refused(tmp_path: Path, offset: int) -> None:
    content = bytearray((emoji.FOLDER / emoji.PUBLIC_FILE).read_bytes())
    content[offset] ^= 0xFF
    (tmp_path / emoji.PUBLIC_FILE).write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"public_64\.npz.*edgecmd data build emoji"):
        emoji.read_shipped(emoji.PUBLIC_FILE, folder=tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"emoji_64\.npz is missing.*edgecmd data build emoji"):
        emoji.read_shipped(emoji.PAIRS_FILE, folder=tmp_path)


def test_notice_names_every_house() -> None:
    text = (emoji.FOLDER / "NOTICE").read_text(encoding="utf-8")
    for words in (
        "Microsoft",
        "Google",
        "Twitter, Inc and other contributors",
        "Mozilla",
        "rasterised to 64",
    ):
        assert words in text
    for licence in (
        "SPDX: MIT",
        "SPDX: Apache-2.0",
        "SPDX: OFL-1.1",
        "SPDX: CC-BY-4.0",
        "Apache License 2.0",
    ):
        assert licence in text


def made_up(num: int) -> tuple[PairedData, LabelledTarget]:
    source, target = np.zeros((num, 4, 4, 3), np.uint8), np.zeros((num, 4, 4, 1), np.uint8)
    return PairedData(source=source, target=target), LabelledTarget(target=target, labels={})


def test_held_out_refuses_unequal_parts() -> None:
    with pytest.raises(DataError, match="3 held-out pairs against 2 labelled targets"):
        HeldOut(pairs=made_up(3)[0], labelled=made_up(2)[1])


@pytest.mark.parametrize("ids", [("a", "b"), ("a", "b", "b")])
def test_ids_are_one_each(ids: tuple[str, ...]) -> None:
    pairs, labelled = made_up(3)
    with pytest.raises(DataError, match=rf"HeldOut has {len(ids)} ids, 2 of them different, for 3 examples"):
        HeldOut(pairs=pairs, labelled=labelled, ids=ids)


def test_experiment_refuses_labels_of_other_length(experiment: Experiment) -> None:
    fields = {name: getattr(experiment, name) for name in Experiment.__dataclass_fields__}
    fields["train_owner"] = experiment.train_owner.take(np.arange(5))
    with pytest.raises(DataError, match=r"Experiment\.train_owner has 5 rows for 2017 training pairs"):
        Experiment(**fields)
