"""Which pictures a page may carry."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from web_parts import make_gallery

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError, ExportError
from edgecmd.settings import DataConfig, TeacherConfig
from export.web.gallery import (
    FLUENT_NOTO,
    Gallery,
    emoji_name,
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
