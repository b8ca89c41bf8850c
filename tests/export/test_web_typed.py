"""The page to type on: its strings are Python's, and a browser finds what Python finds."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import READY, SEEN, Browser
from web_parts import FAKE, HOSTILE, make_gallery

from edgecmd.data.modalities.string_bytes import cut, plain, problem_of
from edgecmd.data.modalities.utf8 import encode_strings
from export.device.student import Student
from export.web.gallery import Gallery
from export.web.ortweb import find_ort_web
from export.web.page import PAGES, build_web

NODE = shutil.which("node")
PROGRAM = Path(__file__).parents[2] / "export" / "web" / "strings.js"
# A mark of its own, Hangul of its parts, a sign that NFC replaces, white space of Unicode at both ends and
# where it is cut, characters of four bytes, joined ones, a byte order mark, which is no white space.
TRICKY = (
    *(
        "dog",
        "Ku\u0308he",
        "\u1112\u1161\u11ab",
        "\u212b",
        "\u3000\u00a0犬 \u2003",
        "a" * 47 + " b",
        "é" * 25,
    ),
    *(
        "😀" * 13,
        "👩\u200d💻" * 5,
        "\ufeffdog",
        "\u200f\u05e9\u05dc\u05d5\u05dd",
        "x" * 46 + "é",
        "\u202fé\u0301\u0323",
    ),
)
MAX_ABS = 1e-5


def shown(num_bytes: int = 48) -> Gallery:
    """Pictures to find, and strings to begin with."""
    examples = encode_strings(["red fish", HOSTILE[:40].replace("\u2028", ""), "כלב"], num_bytes)
    gallery = make_gallery()
    texts = tuple(chr(0x1F400 + row) for row in range(len(gallery.names)))
    return replace(gallery, examples=examples, example_names=(), texts=texts)


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_strings_become_the_bytes_that_python_makes() -> None:
    script = (
        f"const page = require({json.dumps(str(PROGRAM))}); const texts = JSON.parse(process.argv[1]);"
        "const out = texts.map((text) => { const one = page.textInput(text, 48);"
        " return [[...one.data], one.kept, one.numBytes, one.isCut, page.textOf(one.data),"
        " page.problemOf(text)]; });"
        "process.stdout.write(JSON.stringify(out));"
    )
    refused = ["tab\there", "half \ud83d", "line\u2028end", "nul\0"]
    given = json.dumps([*TRICKY, *refused])
    done = subprocess.run([NODE, "-e", script, given], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for text, (data, kept, num, is_cut, again, problem) in zip(TRICKY, found, strict=False):
        whole = plain(text).encode()
        expected = cut(whole, 48)
        assert bytes(data) == expected.ljust(48, b"\0"), ascii(text)
        assert (kept, num, is_cut) == (expected.decode(), len(expected), expected != whole), ascii(text)
        assert (again.removeprefix("\ufeff"), problem) == (expected.decode().removeprefix("\ufeff"), "")
    for text, row in zip(refused, found[len(TRICKY) :], strict=True):
        assert problem_of(text)
        assert row[-1].endswith("is no part of a string. Remove it.")


@pytest.mark.parametrize("mode", ["single", "folder"])
def test_the_page_holds_a_field_and_its_parts(
    cored: Callable[[str], Path], tmp_path: Path, mode: str
) -> None:
    out = tmp_path / ("demo.html" if mode == "single" else "web")
    report = build_web(cored("text"), out, mode=mode, runtime=FAKE, gallery=shown())
    page = report.path.read_text(encoding="utf-8")
    assert f"<title>{PAGES['text'].title}</title>" in page
    assert '<label for="words"' in page
    assert 'dir="auto"' in page
    assert 'id="pad"' not in page
    assert "$" not in page.split("<script")[0]
    parts = set(report.num_bytes)
    assert {"student.onnx", "gallery.bin", "examples.bin", "golden.bin"} <= parts
    assert '<p id="copying" class="quiet">' in page
    # What only drawings have.
    assert not {"second.onnx", "strangers.bin", "student.core.onnx"} & parts


@pytest.fixture(scope="module")
def page(
    cored: Callable[[str], Path], ort_web: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The page of a bundle, in one file."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("typed") / "demo.html"
            build_web(cored(kind), made[kind], mode="single", runtime=find_ort_web(ort_web), gallery=shown())
        return made[kind]

    return get


@pytest.fixture
def typed(page: Callable[[str], Path]) -> Path:
    return page("text")


def value_of(browser: Browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector('{selector}').textContent")


@pytest.mark.parametrize("kind", ["text", pytest.param("ngram", marks=pytest.mark.slow)])
def test_typing_finds_what_python_finds(
    browser: Browser, page: Callable[[str], Path], cored: Callable[[str], Path], kind: str
) -> None:
    browser.open(page(kind).as_uri())
    browser.wait(READY)
    student, gallery = Student(cored(kind)), shown()
    browser.evaluate("document.getElementById('words').focus()")
    for text in ("Ku\u0308he", "👩\u200d💻", "犬" * 17):
        browser.evaluate("document.getElementById('clear').click()")
        browser.wait("!window.edgecmdSeen")
        browser.call("Input.insertText", text=text)
        browser.wait(SEEN)
        seen = browser.evaluate(
            "(({ input, embedding, scores }) => ({ input: [...input], embedding: [...embedding],"
            " scores: [...scores] }))(window.edgecmdSeen)"
        )
        (row,) = encode_strings([text], 48)
        assert seen["input"] == row.tolist()
        embedding, scores = (one[0] for one in student([text]))
        assert np.abs(np.array(seen["embedding"]) - embedding).max() <= MAX_ABS
        assert np.abs(np.array(seen["scores"]) - scores).max() <= MAX_ABS
        order = list(dict.fromkeys(gallery.names[at] for at in np.argsort(-(gallery.embedding @ embedding))))
        names = browser.evaluate(
            "[...document.querySelectorAll('#nearest .name')].map((one) => one.textContent)"
        )
        assert names == order[:6]
        assert value_of(browser, "#status") == f"Nearest: {order[0]}"
    assert value_of(browser, "#told") == f"48 of 48 bytes. Only “{'犬' * 16}” is looked at."
    assert browser.complaints() == []
    assert all(one.startswith(("file:", "blob:")) for one in browser.requests())


def test_a_click_copies_the_emoji_and_typed_emoji_are_no_names(browser: Browser, typed: Path) -> None:
    browser.open(typed.as_uri())
    browser.wait(READY)
    browser.evaluate("document.getElementById('words').focus()")
    browser.call("Input.insertText", text="a 🐶")
    browser.wait(SEEN)
    told = "The student knows what emoji are called, not how they are written."
    assert value_of(browser, "#told") == f"6 of 48 bytes. {told}"
    first = value_of(browser, "#nearest .name")
    # Several pictures have the name; the text is that of the picture.
    copied = browser.evaluate("document.querySelector('#nearest .copy').getAttribute('aria-label')")
    text = dict(zip(shown().texts, shown().names, strict=True))
    emoji = copied.removeprefix("Copy ").split(",")[0]
    assert text[emoji] == first
    browser.evaluate("document.querySelector('#nearest .copy').click()")
    browser.wait("document.getElementById('status').textContent.includes('" + emoji + "')")
    # A browser may refuse to copy; then the emoji is there to be marked.
    assert value_of(browser, "#status").split(emoji)[0] in (
        "Copied: ",
        "This browser does not let a page copy. Here it is to be marked: ",
    )
    assert browser.complaints() == []


def test_half_typed_letters_wait_and_what_is_no_string_is_said(browser: Browser, typed: Path) -> None:
    browser.open(typed.as_uri())
    browser.wait(READY)
    browser.evaluate("document.getElementById('words').focus()")
    # A method of input shows letters that are not meant yet; they are looked at once they are chosen.
    browser.call("Input.imeSetComposition", text="inu", selectionStart=3, selectionEnd=3)
    assert browser.evaluate("document.getElementById('words').value") == "inu"
    assert browser.evaluate("window.edgecmdSeen === undefined")
    browser.call("Input.insertText", text="犬")
    browser.wait(SEEN)
    assert browser.evaluate("[...edgecmdSeen.input].slice(0, 4)") == [*"犬".encode(), 0]
    browser.evaluate(
        "(() => { const field = document.getElementById('words'); field.value = 'half \\ud83d';"
        " field.dispatchEvent(new InputEvent('input')); })()"
    )
    browser.wait("!window.edgecmdSeen")
    assert value_of(browser, "#told") == "The character U+D83D is no part of a string. Remove it."
    assert browser.evaluate("document.getElementById('words').getAttribute('aria-invalid')") == "true"
    # A string to begin with, by the keys alone.
    browser.evaluate("document.querySelector('#examples button').focus()")
    browser.key("\r", code=13)
    browser.wait(SEEN)
    assert browser.evaluate("document.getElementById('words').value") == "red fish"
