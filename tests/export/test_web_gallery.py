"""Which pictures a page may carry."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array
from web_parts import make_gallery

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.catalogue.data_sets import FLUENT_NOTO
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError, ExportError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.experiment import Gallery as ThingsToFind
from edgecmd.data.labelled import LabelledTarget
from edgecmd.data.modalities.utf8 import decode_strings, encode_strings
from edgecmd.data.pairs import PairedData
from edgecmd.run import Run
from edgecmd.settings import DataConfig, TeacherConfig
from edgecmd.training.task import Task
from export.web.gallery import (
    Gallery,
    emoji_name,
    emoji_text,
    fixed_point,
    gallery_of_folder,
    gallery_of_run,
    name_of_file,
    sheet,
)
from tests.tiny_federation import run_of, task_of


def rows_of(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Gallery]:
    config = RunConfig(data=DataConfig(image_size=16, source_size=16))
    return config, gallery_of_run(run_of(config), num_pictures=40)


def test_of_the_built_in_set_only_test_concepts_are_shown(built_in: tuple[RunConfig, Gallery]) -> None:
    config, gallery = built_in
    whole = task_of(config).data
    assert len(gallery.names) == len(gallery.pictures) == len(gallery.embedding) == 40
    assert rows_of(gallery.pictures) <= rows_of(whole.test.pairs.source)
    assert gallery.examples is not None
    assert rows_of(gallery.examples) <= rows_of(whole.test_strict.pairs.target)
    assert not rows_of(gallery.examples) & rows_of(whole.train.target)
    # Strangers are other drawings of those concepts, mixed: their order says nothing of what they show.
    assert gallery.strangers is not None
    assert rows_of(gallery.strangers) <= rows_of(whole.test.pairs.target)
    assert not rows_of(gallery.strangers) & rows_of(gallery.examples)
    places = [
        next(i for i, one in enumerate(whole.test.pairs.target) if (one == s).all())
        for s in gallery.strangers
    ]
    assert places != sorted(places)
    assert np.allclose(np.linalg.norm(gallery.embedding, axis=1), 1, atol=1e-6)


def test_the_built_in_pictures_name_their_authors(built_in: tuple[RunConfig, Gallery]) -> None:
    _, gallery = built_in
    assert gallery.credit == FLUENT_NOTO
    for words in ("Fluent Emoji", "Copyright 2013 Google", "Apache License", "SIL Open Font License"):
        assert words in gallery.notice


def test_the_draw_follows_the_seed(built_in: tuple[RunConfig, Gallery]) -> None:
    config, gallery = built_in
    again = gallery_of_run(run_of(config), num_pictures=40)
    assert again.names == gallery.names
    assert (again.pictures == gallery.pictures).all()
    other = gallery_of_run(run_of(replace(config, seed=1)), num_pictures=40)
    assert other.names != gallery.names


def of_words(num_pictures: int | None = None) -> Gallery:
    """Of 700 things, the last two alike, that twenty strings look for; every second thing has no title."""
    generator = numpy_generator(0, "test-things")
    images = generator.integers(0, 256, (700, 16, 16, 3), dtype=np.uint8)
    features = generator.normal(size=(700, 8)).astype(np.float32)
    images[-1], features[-1] = images[-2], features[-2]
    asked = encode_strings([f"string {row}" for row in range(20)], 16)
    points = [f"{0x1F400 + row:x}" for row in range(700)]
    things = ThingsToFind(
        source=images,
        right=csr_array(np.eye(20, 700, dtype=bool)),
        names=tuple(points),
        titles=tuple("" if row % 2 else f"thing {row}" for row in range(700)),
    )
    pairs = PairedData(source=images[:20], target=asked)
    held = HeldOut(pairs=pairs, labelled=LabelledTarget(target=asked, labels={}), gallery=things)
    task = Mock(spec=Task, data=Mock(spec=Experiment, test=held, test_strict=held))
    # A name is what a mock is called, so it is set apart.
    task.name, task.gallery_features.return_value = "words", features
    return gallery_of_run(Mock(spec=Run, task=task, seed=0), num_pictures=num_pictures)


def test_strings_look_among_all_that_their_test_looks_among() -> None:
    gallery = of_words()
    # Each picture once, and more than a page of drawings has.
    assert len(gallery.names) == len(gallery.pictures) == 699
    assert gallery.names[:4] == ("thing 0", "mouse", "thing 2", "water buffalo")
    assert gallery.texts[:2] == ("\U0001f400", "\U0001f401")
    assert len(of_words(5).names) == len(of_words(5).texts) == 5


def test_what_is_shown_of_words_names_its_authors() -> None:
    gallery = of_words(3)
    for words in ("Fluent Emoji", "Noto Emoji", "CLDR", "Unicode License V3"):
        assert words in gallery.credit
    for name in ("NOTICE", "NOTICE-words"):
        assert shipped_file(name).read_text(encoding="utf-8") in gallery.notice


def test_strings_to_begin_with_are_the_tests() -> None:
    gallery = of_words(3)
    assert gallery.examples is not None
    shown = decode_strings(gallery.examples)
    assert len({*shown}) == 12
    assert {*shown} <= {f"string {row}" for row in range(20)}
    # What only drawings have.
    assert (gallery.strangers, gallery.example_names) == (None, ())


def test_no_private_pair_of_a_user_is_shown(tiny: RunConfig) -> None:
    gallery = gallery_of_run(run_of(tiny))
    whole = task_of(tiny).data
    assert rows_of(gallery.pictures) == rows_of(whole.public.images)
    private = np.concatenate(
        [part.source for part in (whole.train, whole.validation.pairs, whole.test.pairs)]
    )
    assert not rows_of(gallery.pictures) & rows_of(private)
    assert gallery.examples is None
    assert set(gallery.names) <= {name_of_file(key) for key in whole.public.keys}
    # Strangers are public too: drawn from public images, none is a target of a pair.
    targets = np.concatenate(
        [part.target for part in (whole.train, whole.validation.pairs, whole.test.pairs)]
    )
    assert gallery.strangers is not None
    assert gallery.strangers.shape[1:] == targets.shape[1:]
    assert not rows_of(gallery.strangers) & rows_of(targets)
    assert gallery.credit == "Pictures: the public set of this run."
    assert gallery.notice == ""


def test_a_folder_that_the_user_names_is_embedded_by_the_teacher(tiny: RunConfig, tmp_path: Path) -> None:
    public = task_of(tiny).data.public.images
    for row in range(3):
        Image.fromarray(public[row]).save(tmp_path / f"red_box_{row}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    gallery = gallery_of_folder(run_of(tiny), tmp_path, credit="Mine, CC0")
    assert gallery.names == ("red box 0", "red box 1", "red box 2")
    assert gallery.credit == "Mine, CC0"
    whole = gallery_of_run(run_of(tiny))
    own = {picture.tobytes(): row for picture, row in zip(whole.pictures, whole.embedding, strict=True)}
    for picture, row in zip(gallery.pictures, gallery.embedding, strict=True):
        assert np.allclose(row, own[picture.tobytes()], atol=1e-5)


def test_grey_pictures_become_colour(tiny: RunConfig, tmp_path: Path) -> None:
    Image.new("L", (32, 32), 77).save(tmp_path / "grey.png")
    assert (gallery_of_folder(run_of(tiny), tmp_path).pictures == 77).all()


def test_a_folder_without_pictures_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no images.*\.png"):
        gallery_of_folder(run_of(tiny), tmp_path)


def test_ready_features_leave_no_teacher_for_new_pictures(tiny: RunConfig, tmp_path: Path) -> None:
    config = replace(tiny, teacher=TeacherConfig(pair_features="a.npy", public_features="b.npy"))
    with pytest.raises(ExportError, match="no teacher"):
        gallery_of_folder(run_of(config), tmp_path)


def test_a_gallery_needs_as_many_names_as_pictures() -> None:
    with pytest.raises(ExportError, match=r"\(3, 4, 4\)"):
        make_gallery(4, names=("a", "b", "c"))


@pytest.mark.parametrize(
    ("points", "name"),
    [
        ("1f600", "grinning face"),
        ("1f9d1-200d-1f3a8", "adult + artist palette"),
        ("2708-fe0f", "airplane"),
        ("e000", "U+E000"),
    ],
)
def test_emoji_are_named_as_unicode_names_them(points: str, name: str) -> None:
    assert emoji_name(points) == name


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ("1f600", "\U0001f600"),
        # A heart, a keycap and a sign of men are plain signs without what asks for a picture.
        ("2764", "\u2764\ufe0f"),
        ("0023-20e3", "#\ufe0f\u20e3"),
        ("1f64e-200d-2642", "\U0001f64e\u200d\u2642\ufe0f"),
        ("1f9d1-200d-1f3a8", "\U0001f9d1\u200d\U0001f3a8"),
    ],
)
def test_the_text_of_an_emoji_is_that_of_its_picture(points: str, text: str) -> None:
    assert emoji_text(points) == text


def test_a_gallery_needs_a_text_to_copy_for_all_or_none() -> None:
    with pytest.raises(ExportError, match="of 20 images has 1 texts"):
        replace(make_gallery(), texts=("a",))


def test_the_sheet_holds_each_picture_in_its_tile() -> None:
    pictures = make_gallery(7, side=128).pictures
    data, side, columns = sheet(pictures)
    assert (side, columns) == (64, 3)
    image = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
    assert image.shape == (192, 192, 3)
    for row, picture in enumerate(pictures):
        middle = image[row // 3 * 64 + 32, row % 3 * 64 + 32]
        assert np.abs(middle - picture[0, 0]).max() <= 12  # WebP loses a little


def test_small_pictures_are_not_enlarged() -> None:
    assert sheet(make_gallery(4, side=16).pictures)[1:] == (16, 2)


def test_fixed_point_is_little_endian_and_near() -> None:
    rows = np.array([[1.0, -1.0, 0.5], [0.0, 0.25, -0.125]], np.float32)
    assert fixed_point(rows)[:4] == b"\xff\x7f\x01\x80"
    back = np.frombuffer(fixed_point(rows), "<i2").reshape(2, 3) / 32767
    assert np.abs(back - rows).max() <= 1.6e-5
