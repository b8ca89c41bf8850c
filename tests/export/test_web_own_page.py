"""The page in a real browser: one's own classes and drawings, two files, the engine, small screens."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import QUIET, READY, SEEN, Browser, find_chromium, open_browser
from PIL import Image
from web_parts import make_gallery

from export.device.classes import Rejection, calibrated, from_examples, left_out
from export.device.saved_embeddings import load_gallery, load_prototypes, save_prototypes
from export.device.student import Student
from export.web.ortweb import WEBGPU_SHA256, find_ort_web
from export.web.page import build_web
from export.web.page_parts import strangers_part

CHROMIUM = find_chromium()
HOSTILE = "<img src=x onerror=document.title='broken'>"
STROKES = [[(0.2, 0.2), (0.8, 0.8)], [(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)]]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def strangers(make) -> np.ndarray:
    return make.images(60)


@pytest.fixture(scope="module")
def page(
    bundle: Callable[[str], Path],
    ort_web: Path,
    strangers: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("page") / "demo.html"
    gallery = replace(make_gallery(), strangers=strangers)
    build_web(bundle("ws-50k"), out, mode="single", runtime=find_ort_web(ort_web), gallery=gallery)
    return out


def start(browser: Browser, page: Path, *, forget: bool = True) -> None:
    browser.resize(1280, 900)
    browser.open(page.as_uri())
    browser.wait(READY)
    if forget and browser.evaluate("localStorage.length"):
        browser.evaluate("localStorage.clear()")
        browser.open(page.as_uri())
        browser.wait(READY)
    # What the page offers as a file is kept here, and not written to a folder of downloads.
    browser.evaluate(
        "window.offered = [];"
        " URL.createObjectURL = (blob) => { window.offered.push(blob); return 'blob:none'; };"
        " HTMLAnchorElement.prototype.click = () => {};"
    )


def text(browser: Browser, name: str) -> str:
    return str(browser.evaluate(f"document.getElementById('{name}').textContent"))


def click(browser: Browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).click()")


def draw(browser: Browser, stroke: list[tuple[float, float]]) -> np.ndarray:
    """The embedding of a drawing."""
    browser.stroke(stroke)
    browser.wait(SEEN)
    return np.array(browser.evaluate("[...window.edgecmdSeen.embedding]"), np.float32)


def add_class(browser: Browser, name: str) -> np.ndarray:
    """Draw three examples and add them under a name; their embeddings."""
    rows = []
    for stroke in STROKES:
        rows.append(draw(browser, stroke))
        browser.evaluate(f"document.getElementById('class-name').value = {name!r}")
        click(browser, "#teach button")
        browser.wait("window.edgecmdSeen === undefined")
    browser.wait(
        "[...document.querySelectorAll('#own-classes .quiet')]"
        ".some((one) => one.textContent === '3 examples')"
    )
    return np.stack(rows)


def offered(browser: Browser, path: Path) -> Path:
    """The file that the page offered last."""
    browser.wait("window.offered.length > 0")
    data = browser.evaluate(
        "window.offered.pop().arrayBuffer().then((all) => btoa(String.fromCharCode(...new Uint8Array(all))))"
    )
    path.write_bytes(base64.b64decode(data))
    return path


def test_three_drawings_are_a_class_that_infer_reads_and_that_stays(
    browser: Browser, page: Path, bundle: Callable[[str], Path], strangers: np.ndarray, tmp_path: Path
) -> None:
    student = Student(bundle("ws-50k"))
    start(browser, page)
    rows = add_class(browser, HOSTILE)
    click(browser, "#classes-save")
    found = load_prototypes(offered(browser, tmp_path / "mine.npz"), dim=16, model=student.digest)
    made = from_examples({HOSTILE: rows}, dim=16)
    known = np.frombuffer(strangers_part(student, strangers).files["strangers.bin"], "<i2").reshape(-1, 16)
    expected = calibrated(made, known / 32767, known=left_out(made, HOSTILE, rows))
    assert (found.names, found.counts) == ((HOSTILE,), (3,))
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-5)
    assert found.rejection is not None
    assert expected.rejection is not None
    assert found.rejection.threshold == pytest.approx(expected.rejection.threshold, abs=1e-5)
    accepts, rejects = expected.rejection.false_accepts, expected.rejection.false_rejects
    assert f"{accepts[0]} ({accepts[0] / accepts[1]:.1%}) of 30".replace("%", " %") in text(browser, "rates")
    assert f"{rejects[0]} ({rejects[0] / 3:.1%}) of 3".replace("%", " %") in text(browser, "rates")
    # A hostile name is a text: the list shows it, and nothing ran.
    assert HOSTILE in text(browser, "own-classes")
    assert browser.evaluate("document.title") != "broken"
    assert browser.evaluate("document.querySelectorAll('#own-classes img, #classes img').length") == 0
    # One of the examples again is one of the class, joined with the trained classes to a whole of 1.
    draw(browser, STROKES[0])
    assert "yours" in text(browser, "classes")
    assert text(browser, "verdict").startswith(("One of yours", "None of your classes"))
    shares = browser.evaluate(
        "[...document.querySelectorAll('#classes .number')].map((one) => parseFloat(one.textContent))"
    )
    assert sum(shares) == pytest.approx(100, abs=0.3)
    # It is there when the page is opened again, and gone when it is removed; then nothing is kept.
    start(browser, page, forget=False)
    assert HOSTILE in text(browser, "own-classes")
    assert text(browser, "rates").endswith("wrongly turned away.")
    click(browser, "#own-classes button")
    browser.wait("document.querySelectorAll('#own-classes li').length === 0")
    assert browser.evaluate("localStorage.length") == 0
    assert [url for url in browser.requests() if not url.startswith(("blob:", "data:", page.as_uri()))] == []
    assert browser.complaints() == []


def test_files_of_infer_are_loaded_and_what_is_wrong_is_one_sentence(
    browser: Browser, page: Path, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    student = Student(bundle("ws-50k"))
    rows = np.eye(3, 16, dtype=np.float32)
    classes = from_examples({"alarm_clock": rows[:2], "pen": rows[2:]}, dim=16)
    classes = classes._replace(rejection=Rejection(0.5, (1, 40), (0, 0)))
    files = {name: tmp_path / f"{name}.npz" for name in ("mine", "other", "taken", "cut")}
    save_prototypes(files["mine"], classes, model=student.digest)
    save_prototypes(files["other"], classes, model="1" * 64)
    save_prototypes(files["taken"], from_examples({"house": rows}, dim=16), model=student.digest)
    files["cut"].write_bytes(files["mine"].read_bytes()[:300])
    start(browser, page)
    for name, words in (
        ("other", "other.npz was made with another model"),
        ("taken", "“house” is one of the trained classes too"),
        ("cut", "cut.npz is no file of classes that can be used: it is no .npz, or is cut off."),
    ):
        browser.choose_files("#classes-load", files[name])
        browser.wait(f"document.getElementById('own-status').textContent.includes({words!r})")
        assert browser.evaluate("document.querySelectorAll('#own-classes li').length") == 0
    browser.choose_files("#classes-load", files["mine"])
    browser.wait("document.querySelectorAll('#own-classes li').length === 2")
    # Names are as people read them, and the file's own threshold holds.
    assert "alarm clock" in text(browser, "own-classes")
    assert "0.50 or less. Of other drawings, 1 (2.5 %) of 40" in text(browser, "rates")
    assert text(browser, "rates").endswith("was not measured.")
    # Picture files are examples too; a file that is none is named.
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    (tmp_path / "no.png").write_bytes(b"nothing")
    browser.evaluate("document.getElementById('class-name').value = 'pen'")
    browser.choose_files("#class-files", tmp_path / "grey.png", tmp_path / "no.png")
    browser.wait("document.getElementById('own-status').textContent.includes('no.png: no picture')")
    assert "2 examples" in text(browser, "own-classes")
    click(browser, "#classes-save")
    found = load_prototypes(offered(browser, tmp_path / "more.npz"), dim=16, model=student.digest)
    grey = student(np.full((1, 30, 40, 1), 128, np.uint8)).embedding[0]
    mean = (grey.astype(np.float64) + rows[2]) / 2
    assert found.counts == (2, 2)
    np.testing.assert_allclose(found.vectors[1], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_full_and_a_damaged_store_are_told(browser: Browser, page: Path) -> None:
    start(browser, page)
    browser.evaluate(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"
    )
    add_class(browser, "cup")
    assert text(browser, "own-status").startswith("This browser has no room to keep your classes")
    start(browser, page)
    add_class(browser, "cup")
    browser.evaluate(
        "localStorage.setItem(localStorage.key(0), localStorage.getItem(localStorage.key(0)).slice(0, 90))"
    )
    start(browser, page, forget=False)
    assert "is damaged and was left out" in text(browser, "own-status")
    assert browser.evaluate("document.body.dataset.state") == "ready"


def test_own_drawings_are_searched_and_their_file_is_that_of_infer(
    browser: Browser, page: Path, bundle: Callable[[str], Path], make, tmp_path: Path
) -> None:
    student, images = Student(bundle("ws-50k")), make.images(4)
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "c", HOSTILE.replace("/", ""))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    start(browser, page)
    browser.choose_files("#drawings-files", *paths)
    browser.wait("document.getElementById('drawings-status').textContent.startsWith('4 pictures embedded')")
    click(browser, "#drawings-save")
    saved = load_gallery(offered(browser, tmp_path / "seen.npz"), dim=16, model=student.digest)
    assert saved.names == tuple(path.name for path in paths)
    np.testing.assert_allclose(saved.vectors, student(images).embedding, atol=1e-5)
    browser.choose_files("#file", paths[2])
    browser.wait(f"{SEEN} && document.querySelectorAll('#nearest li').length === 4")
    names = browser.evaluate("[...document.querySelectorAll('#nearest .name')].map((one) => one.textContent)")
    assert names[0] == "c.png"
    assert browser.evaluate("document.querySelectorAll('#nearest img').length") == 0
    browser.evaluate(
        "(() => { const one = document.getElementById('place'); one.value = 'page'; one.onchange(); })()"
    )
    browser.wait(f"{QUIET} && document.querySelectorAll('#nearest li').length === 6")
    click(browser, "#drawings-empty")
    browser.choose_files("#drawings-load", tmp_path / "seen.npz")
    browser.wait("document.getElementById('drawings-count').textContent === '4 drawings'")
    assert browser.complaints() == []


def test_two_files_are_looked_at_side_by_side(browser: Browser, page: Path) -> None:
    start(browser, page)
    browser.evaluate("document.getElementById('second-open').open = true")
    browser.wait("!document.getElementById('second-all').hidden")
    assert "MB of this page" in text(browser, "second-size") or "kB of this page" in text(
        browser, "second-size"
    )
    click(browser, "#second-all")
    browser.wait("document.getElementById('second-status').textContent.includes('of 3 drawings')")
    cells = browser.evaluate(
        "[...document.querySelectorAll('#second-rows tr')].map((row) => row.textContent)"
    )
    assert cells[0].startswith("File")
    assert cells[2].startswith("First answer")
    assert "smallest cosine of the two embeddings 0.99" in text(browser, "second-status") or "1.0000" in text(
        browser, "second-status"
    )
    assert "right for" in text(browser, "engine-why")
    assert text(browser, "fact-engine") == "WebAssembly"


@pytest.mark.parametrize(("size", "dark"), [((390, 844), False), ((360, 640), True)])
def test_the_results_stand_beside_the_pad_on_a_phone(
    browser: Browser, page: Path, size: tuple[int, int], dark: bool
) -> None:
    start(browser, page)
    browser.resize(*size, is_phone=True, dark=dark)
    draw(browser, STROKES[0])
    boxes = browser.evaluate(
        "Object.fromEntries(['pad', 'nearest', 'class-name'].map((id) => [id,"
        " document.getElementById(id).getBoundingClientRect().toJSON()]))"
    )
    pad, found, name = boxes["pad"], boxes["nearest"], boxes["class-name"]
    assert pad["right"] <= found["left"]
    assert pad["width"] >= 150
    # The first answers are level with the pad, and pad, results and the name of a class are on the screen.
    assert found["top"] < pad["bottom"]
    assert max(found["bottom"], name["bottom"]) <= size[1]
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_every_control_has_a_name_and_text_has_contrast(browser: Browser, page: Path) -> None:
    for dark in (False, True):
        start(browser, page)
        browser.resize(390, 844, is_phone=True, dark=dark)
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "textbox", "combobox", "radio", "checkbox", "link", "application")
        controls = [one for one in nodes if one.get("role", {}).get("value") in roles and not one["ignored"]]
        assert len(controls) >= 15
        assert [one for one in controls if not one.get("name", {}).get("value")] == []
        assert browser.evaluate(CONTRAST) >= 4.5


# The least ratio of luminances (WCAG 2) of the colours of text and those that it stands on.
CONTRAST = """(() => {
  const style = getComputedStyle(document.documentElement);
  const levels = (name) => {
    const text = style.getPropertyValue(name).trim();
    const long = text.length > 4 ? text : text.replace(/[^#]/g, "$&$&");
    return [1, 3, 5].map((at) => parseInt(long.slice(at, at + 2), 16) / 255);
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (name) => levels(name).reduce((sum, v, i) => sum + linear(v) * weights[i], 0);
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  return Math.min(...["--ink", "--quiet", "--accent", "--bad"].flatMap((one) =>
    ["--paper", "--ground"].map((other) => ratio(one, other))));
})()"""


@pytest.mark.slow
@pytest.mark.parametrize("planted", [False, True])
def test_webgpu_is_used_where_it_is_right(
    cored: Callable[[str], Path], ort_web: Path, tmp_path: Path, planted: bool
) -> None:
    if not all((ort_web / name).is_file() for name in WEBGPU_SHA256):
        pytest.skip("onnxruntime-web with WebGPU is not on this machine: edgecmd web fetch --webgpu")
    runtime, out = find_ort_web(ort_web, webgpu=True), tmp_path / "demo.html"
    build_web(cored("ws-50k"), out, mode="single", runtime=runtime, gallery=make_gallery())
    if planted:
        # Other golden values for the core: to the page, WebGPU is wrong.
        page = out.read_text(encoding="utf-8")
        before, after = page.split('"core_golden": {"embedding": [[', 1)
        out.write_text(f'{before}"core_golden": {{"embedding": [[1{after}', encoding="utf-8")
    assert CHROMIUM
    with open_browser(CHROMIUM, webgpu=True) as one:
        one.open(out.as_uri())
        one.wait(READY, 600)
        told = text(one, "engine-why")
        if "offers no WebGPU" in told:
            pytest.skip("this Chromium has no WebGPU")
        assert "WebGPU fails at the whole model (The antialias attribute of Resize" in told
        assert text(one, "fact-engine") == ("WebAssembly" if planted else "WebGPU")
        assert ("WebGPU is wrong at the student alone" in told) == planted
        one.stroke(STROKES[0])
        one.wait(SEEN, 600)
        seen = one.evaluate(
            "(({ input, dims, embedding }) => [[...input], dims, [...embedding]])(window.edgecmdSeen)"
        )
        student = Student(cored("ws-50k"))
        image = np.array(seen[0], np.uint8).reshape(seen[1])
        # The core has weights of 32 bits, the page's own file of 8.
        np.testing.assert_allclose(seen[2], student(image).embedding[0], atol=1e-5 if planted else 0.02)
