"""Gallery and PNG encoder."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from edgecmd.report.drawing import FRAME
from edgecmd.report.page import templates
from edgecmd.report.pictures import as_rgb, gallery_drawing, png_file, rank_in_words
from edgecmd.report.read import read_run
from edgecmd.report.results import retrieval
from tests.edgecmd.report.test_page import html_of


def test_png_holds_the_same_pixels():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    opened = Image.open(io.BytesIO(png_file(image)))
    opened.load()
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), image)


def test_a_large_image_is_shrunk_to_what_a_page_shows():
    image = np.full((224, 448, 3), 7, dtype=np.uint8)
    opened = Image.open(io.BytesIO(png_file(image)))
    assert opened.size == (128, 64)
    assert np.asarray(opened).max() == np.asarray(opened).min() == 7


def test_other_images_become_grey():
    image = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    assert as_rgb(image)[..., 1].tolist() == [[0, 2, 4], [6, 8, 10]]
    colour = np.zeros((2, 2, 3), np.uint8)
    assert as_rgb(colour) is colour


@pytest.mark.parametrize(
    ("rank", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (112, "112th"), (121, "121st")],
)
def test_rank_in_words(rank, text):
    assert rank_in_words(rank) == text


def test_the_own_image_is_framed_where_it_was_found(finished):
    page = html_of(finished)
    gallery = page[page.index('<table class="gallery">') :]
    rows = gallery[: gallery.index("</tbody>")].split("<tbody>")[1].split("<tr>")[1:]
    framed = [
        [index for index, image in enumerate(re.findall("<img[^>]*>", row)) if "right" in image]
        for row in rows
    ]
    # Query and own image come first; ranks are 1, 3, 5 and 12, which is not among the five.
    assert framed == [[2], [4], [6], []]
    assert "own image found </span>12th" in rows[3]


def test_the_png_shows_the_frames(finished):
    drawing = gallery_drawing(read_run(finished).gallery)
    pixels = np.asarray(Image.open(io.BytesIO(drawing.png)).convert("RGB"))
    assert (pixels == FRAME).all(axis=2).any()
    assert pixels.shape[1] == 7 * 150 + 10


def test_strings_of_every_script_stand_in_the_page_as_text(finished):
    texts = ["<b>猫</b>", "कुत्ता", "مرحبا", "a\u202eb"]
    with np.load(finished / "retrieval.npz") as arrays:
        kept = {**arrays, "words": np.array(texts)}
    np.savez(finished / "retrieval.npz", **kept)
    run = read_run(finished)
    page = templates(run=run).get_template("sections/retrieval.html").render(retrieval(run))
    shown = re.findall('<bdi class="words" dir="auto">(.*?)</bdi>', page)
    # What could be obeyed is written out: marks of HTML, and of the direction of what follows.
    assert shown == ["&lt;b&gt;猫&lt;/b&gt;", "कुत्ता", "مرحبا", "a\\u202eb"]
