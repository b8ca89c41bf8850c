"""The page in a real browser: drawn on with the mouse and the keys, and compared with Python."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import READY, SEEN, Browser, find_chromium
from web_parts import make_gallery

from edgecmd.datasets.emoji import shrink
from export.device.student import Student
from export.web.ortweb import find_ort_web
from export.web.page import build_web
from export.web.serve import make_server

CHROMIUM = find_chromium()
MAX_ABS = 1e-5
HOUSE = [
    [(0.2, 0.9), (0.2, 0.45), (0.8, 0.45), (0.8, 0.9), (0.2, 0.9)],
    [(0.1, 0.47), (0.5, 0.1), (0.9, 0.47)],
]
CTRL, SHIFT = 2, 8

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(bundle: Callable[[str], Path], ort_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "demo.html"
    runtime = find_ort_web(ort_web)
    build_web(bundle("ws-50k"), out, mode="single", runtime=runtime, gallery=make_gallery())
    return out


@pytest.fixture(scope="module")
def folder(bundle: Callable[[str], Path], ort_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "web"
    runtime = find_ort_web(ort_web)
    build_web(bundle("ws-50k"), out, mode="folder", runtime=runtime, gallery=make_gallery())
    return out


def pixels(selector: str) -> str:
    """Expression for the red levels of a canvas."""
    return (
        f"(() => {{ const c = document.querySelector('{selector}');"
        " const rgba = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " return [...rgba].filter((_, i) => i % 4 === 0); })()"
    )


def names(selector: str) -> str:
    return f"[...document.querySelectorAll('{selector} .name')].map((element) => element.textContent)"


def check_against_python(browser: Browser, model: Path) -> None:
    """What the page has seen last is what Python makes of the pixels on the canvas."""
    seen = browser.evaluate(
        "(({ input, dims, embedding, scores }) => ({ dims, input: [...input], embedding: [...embedding],"
        " scores: [...scores] }))(window.edgecmdSeen)"
    )
    student, gallery = Student(model), make_gallery()
    levels = np.array(browser.evaluate(pixels("#pad")), np.uint8)
    side = round(len(levels) ** 0.5)
    canvas = levels.reshape(1, side, side, 1)
    small = shrink(canvas, student.image_size)
    assert browser.evaluate(pixels("#seen")) == small.ravel().tolist()
    image = np.array(seen["input"], np.uint8).reshape(seen["dims"])
    assert (image == (small if image.shape == small.shape else canvas)).all()
    embedding, scores = (rows[0] for rows in student.session.run(["embedding", "scores"], {"image": image}))
    assert np.abs(np.array(seen["embedding"]) - embedding).max() <= MAX_ABS
    assert np.abs(np.array(seen["scores"]) - scores).max() <= MAX_ABS
    order = np.argsort(-(gallery.embedding @ embedding))
    assert browser.evaluate(names("#nearest")) == list(dict.fromkeys(gallery.names[row] for row in order))[:6]
    assert browser.evaluate(names("#classes"))[0] == student.classes[int(scores.argmax())]


def draw(browser: Browser) -> None:
    for stroke in HOUSE:
        browser.stroke(stroke)
    browser.wait(SEEN)
    assert browser.evaluate("document.getElementById('status').textContent").startswith("Nearest: ")


def test_a_drawing_by_mouse_gives_the_numbers_of_python_and_asks_nobody(
    browser: Browser, page: Path, bundle: Callable[[str], Path]
) -> None:
    browser.resize(1280, 900)
    browser.open(page.as_uri())
    browser.wait(READY)
    draw(browser)
    check_against_python(browser, bundle("ws-50k") / "student.onnx")
    asked = browser.requests()
    assert asked[0] == page.as_uri()
    assert [url for url in asked[1:] if not url.startswith(("blob:", "data:"))] == []
    assert browser.evaluate("document.getElementById('fact-requests').textContent") == "0"
    assert browser.complaints() == []


def test_undo_clear_and_a_ready_drawing(browser: Browser, page: Path, bundle: Callable[[str], Path]) -> None:
    browser.resize(1280, 900)
    browser.open(page.as_uri())
    browser.wait(READY)
    draw(browser)
    before = browser.evaluate("[...window.edgecmdSeen.input].join()")
    browser.stroke([(0.4, 0.4), (0.6, 0.6)])
    browser.wait(f"{SEEN} && [...window.edgecmdSeen.input].join() !== {before!r}")
    browser.evaluate("document.getElementById('undo').click()")
    browser.wait(f"{SEEN} && [...window.edgecmdSeen.input].join() === {before!r}")
    browser.evaluate("document.getElementById('clear').click()")
    browser.wait("window.edgecmdSeen === undefined && document.querySelectorAll('#nearest li').length === 0")
    browser.evaluate("document.querySelectorAll('#examples button')[1].click()")
    browser.wait(SEEN)
    assert browser.evaluate(pixels("#seen")) == make_gallery().examples[1].ravel().tolist()
    check_against_python(browser, bundle("ws-50k") / "student.onnx")
    assert browser.complaints() == []


def test_the_keyboard_draws_too(browser: Browser, page: Path, bundle: Callable[[str], Path]) -> None:
    browser.resize(1280, 900)
    browser.open(page.as_uri())
    browser.wait(READY)
    browser.key("Tab", code=9)
    assert browser.evaluate("document.activeElement.id") == "pad"
    assert browser.evaluate("document.getElementById('cursor').hidden") is False
    browser.key(" ", code=32)
    for _ in range(5):
        browser.key("ArrowRight", code=39)
    browser.key("ArrowDown", code=40, modifiers=SHIFT)
    browser.key(" ", code=32)
    browser.wait(SEEN)
    check_against_python(browser, bundle("ws-50k") / "student.onnx")
    # 5 steps of 8 and one fine one of 2, from the middle.
    place = browser.evaluate(
        "['left', 'top'].map((side) => parseFloat(document.getElementById('cursor').style[side]))"
    )
    assert place == pytest.approx([100 * 168 / 256, 100 * 130 / 256], abs=0.01)
    browser.key("z", code=90, modifiers=CTRL)
    browser.wait("window.edgecmdSeen === undefined")
    assert browser.complaints() == []


def test_a_served_folder_asks_for_its_own_files_alone(
    browser: Browser, folder: Path, bundle: Callable[[str], Path]
) -> None:
    with make_server(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            own = f"http://127.0.0.1:{server.server_port}/"
            browser.resize(1280, 900)
            browser.open(own)
            browser.wait(READY)
            draw(browser)
            check_against_python(browser, bundle("ws-50k") / "student.onnx")
            asked = browser.requests()
            assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
            assert f"{own}student.onnx" in asked
            assert browser.complaints() == []
        finally:
            server.shutdown()
            thread.join()


def test_a_folder_opened_from_the_disk_says_what_to_do(browser: Browser, folder: Path) -> None:
    browser.open((folder / "index.html").as_uri())
    browser.wait("document.body && document.body.dataset.state === 'failed'")
    assert "edgecmd web serve" in browser.evaluate("document.getElementById('error').textContent")


def test_a_damaged_page_says_so(browser: Browser, page: Path, tmp_path: Path) -> None:
    marker = 'id="asset-student.onnx">'
    before, after = page.read_text(encoding="utf-8").split(marker)
    broken = tmp_path / "broken.html"
    broken.write_text(before + marker + "H4sI" + after[after.index("<") :], encoding="utf-8")
    browser.open(broken.as_uri())
    browser.wait("document.body && document.body.dataset.state === 'failed'")
    assert "could not be loaded" in browser.evaluate("document.getElementById('error').textContent")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_does_not_scroll_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.resize(width, 844, is_phone=True)
    browser.open(page.as_uri())
    browser.wait(READY)
    draw(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
