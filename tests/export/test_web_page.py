"""The page as bytes: what is in it, what is not, and what is refused."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from web_parts import FAKE, HOSTILE, make_gallery

from edgecmd.core.errors import ConfigError, ExportError, MachineError
from export.web.page import FOLDER_FILES, WebReport, build_web, embedded_json

Bundle = Callable[[str], Path]
MIT = "Permission is hereby granted, free of charge"
MICROSOFT = "Copyright (c) Microsoft Corporation"


class Elements(HTMLParser):
    """Every script, style and attribute of a page, as a browser cuts them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self.tag = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        self.attributes += attributes
        if tag in ("script", "style"):
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag in ("script", "style"):
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.text += data


def single(bundle: Path, out: Path, **changes) -> tuple[str, WebReport]:
    report = build_web(
        bundle, out, **{"mode": "single", "runtime": FAKE, "gallery": make_gallery(), **changes}
    )
    return out.read_text(encoding="utf-8"), report


def inside(page: str) -> dict[str, bytes]:
    """Files inside a single page, unpacked."""
    found = re.findall(r'<script type="application/octet-stream" id="asset-([^"]+)">([^<]*)</script>', page)
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in found}


def info_of(page: str) -> dict:
    return next(json.loads(text) for kind, text in Elements(page).scripts if kind.get("id") == "info")


def test_the_single_page_holds_every_part_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    page, report = single(bundle("ws-50k"), tmp_path / "demo.html")
    parts = inside(page)
    assert parts["student.onnx"] == (bundle("ws-50k") / "student.onnx").read_bytes()
    assert (parts["runtime.mjs"], parts["runtime.wasm"]) == (FAKE.script, FAKE.wasm)
    assert parts["examples.bin"] == make_gallery().examples.tobytes()
    stored = np.frombuffer(parts["gallery.bin"], "<i2").reshape(20, 16) / 32767
    assert np.abs(stored - make_gallery().embedding).max() <= 0.5 / 32767 + 1e-7
    assert report.total_bytes == len(page.encode()) == sum(report.num_bytes.values())


def test_the_page_says_what_the_model_says(bundle: Bundle, tmp_path: Path) -> None:
    page, _ = single(bundle("ws-50k"), tmp_path / "demo.html")
    info = info_of(page)
    assert info["classes"] == ["house", "tree", "fish"]
    assert (info["image_size"], info["channels"], info["embedding_dim"]) == (32, 1, 16)
    assert info["paper"] is True  # offset 1: white is the student's zero
    assert info["canvas_side"] % info["image_size"] == 0
    assert info["canvas_side"] >= 256


def test_a_model_of_another_size_gets_a_canvas_of_whole_blocks(make, tmp_path: Path) -> None:
    from export.graph.deployable import Deployable, rebuild
    from export.graph.to_onnx import to_onnx

    spec = replace(make.spec("ws-50k", head=True), image_size=48, offset=0.0, scale=1.0)
    path = tmp_path / "student.onnx"
    path.write_bytes(to_onnx(Deployable(rebuild(make.student("ws-50k"), spec), spec).eval()))
    info = info_of(single(path, tmp_path / "demo.html")[0])
    assert info["canvas_side"] == 288  # the first multiple of 48 from 256 on
    assert info["paper"] is False


def test_equal_inputs_give_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    first, _ = single(bundle("ws-50k"), tmp_path / "one.html")
    second, _ = single(bundle("ws-50k"), tmp_path / "deeper" / "two.html")
    assert first == second


def test_the_licence_of_the_runtime_goes_along(bundle: Bundle, tmp_path: Path) -> None:
    page, _ = single(bundle("ws-50k"), tmp_path / "demo.html")
    comment = page[page.index("<!--") : page.index("-->")]
    assert MIT in comment
    assert MICROSOFT in comment
    visible = Elements(page).text
    assert MIT in visible
    assert MICROSOFT in visible
    assert "ThirdPartyNotices" in visible
    assert "Notice of nobody." in visible
    build_web(bundle("ws-50k"), tmp_path / "web", mode="folder", runtime=FAKE, gallery=make_gallery())
    assert MIT in (tmp_path / "web" / "LICENSE.txt").read_text()
    assert (tmp_path / "web" / "NOTICE.txt").read_text() == "Notice of nobody."


@pytest.mark.parametrize("mode", ["single", "folder"])
def test_nothing_tells_of_this_machine(bundle: Bundle, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "place"
    build_web(bundle("ws-50k"), out, mode=mode, runtime=FAKE, gallery=make_gallery())
    files = [out] if out.is_file() else sorted(out.iterdir())
    content = {path.name: path.read_bytes() for path in files}
    if mode == "single":
        content |= inside(content["place"].decode())
    words = [str(Path.cwd()), str(Path.home()) + "/", str(tmp_path), str(bundle("ws-50k")), "site-packages"]
    found = [(name, word) for name, data in content.items() for word in words if word.encode() in data]
    assert found == []


@pytest.mark.parametrize("mode", ["single", "folder"])
def test_the_page_may_ask_for_nothing_else(bundle: Bundle, tmp_path: Path, mode: str) -> None:
    report = build_web(bundle("ws-50k"), tmp_path / "out", mode=mode, runtime=FAKE, gallery=make_gallery())
    page = report.path.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == ("'none'" if mode == "single" else "'self'")
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    places = [value for key, value in Elements(page).attributes if key in ("src", "href", "action")]
    assert sorted(places) == (["data:,"] if mode == "single" else ["app.js", "data:,", "style.css"])


def test_the_policy_names_the_program_and_the_style_by_their_digests(bundle: Bundle, tmp_path: Path) -> None:
    page, _ = single(bundle("ws-50k"), tmp_path / "demo.html")
    allowed = re.findall(r"'sha256-([^']+)'", page)
    texts = [text for kind, text in Elements(page).scripts if not kind]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    assert sorted(digests) == sorted(allowed)
    assert len(digests) == 2


def test_hostile_names_stay_texts(bundle: Bundle, tmp_path: Path) -> None:
    plain, _ = single(bundle("ws-50k"), tmp_path / "plain.html")
    gallery = make_gallery(2, names=(HOSTILE, "$title ${info}"))
    page, _ = single(bundle("ws-50k"), tmp_path / "hostile.html", gallery=gallery, title=HOSTILE)
    assert [kind for kind, _ in Elements(page).scripts] == [kind for kind, _ in Elements(plain).scripts]
    assert info_of(page)["gallery"]["names"] == [HOSTILE, "$title ${info}"]
    assert "alert(" not in "".join(text for kind, text in Elements(page).scripts if not kind)
    assert "Pictures: nobody <&>." in Elements(page).text


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&lt;", HOSTILE])
def test_embedded_json_is_the_same_value_without_markup(text: str) -> None:
    written = embedded_json({"name": text})
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"name": text}


def test_a_folder_holds_its_files_and_loses_those_of_an_older_page(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "web"
    report = build_web(bundle("ws-50k"), out, mode="folder", runtime=FAKE, gallery=make_gallery())
    # Strangers come with a run, the core with WebGPU.
    files = FOLDER_FILES - {"strangers.bin", "student.core.onnx"}
    assert {path.name for path in out.iterdir()} == files
    assert report.total_bytes == sum(path.stat().st_size for path in out.iterdir())
    build_web(bundle("ws-50k"), out, mode="folder", runtime=FAKE, compare=False)
    assert {path.name for path in out.iterdir()} == files - {
        "second.onnx",
        "gallery.bin",
        "gallery.webp",
        "examples.bin",
        "NOTICE.txt",
    }


def test_a_bundle_alone_shows_its_classes(bundle: Bundle, tmp_path: Path) -> None:
    page, _ = single(bundle("ws-50k"), tmp_path / "demo.html", gallery=None)
    assert "gallery" not in info_of(page)
    assert '<div id="classes-part">' in page


def test_two_files_are_compared_unless_that_is_not_wanted(bundle: Bundle, tmp_path: Path) -> None:
    page, report = single(bundle("ws-50k"), tmp_path / "demo.html")
    # The bundle's first file is fp32, so w8 stands beside it.
    assert inside(page)["second.onnx"] == (bundle("ws-50k") / "student.w8.onnx").read_bytes()
    assert info_of(page)["second"]["profile"] == "w8"
    assert "Compare fp32 with w8" in Elements(page).text
    less, smaller = single(bundle("ws-50k"), tmp_path / "less.html", compare=False)
    assert "second.onnx" not in inside(less)
    assert smaller.total_bytes < report.total_bytes - report.num_bytes["second.onnx"]


def test_the_page_knows_which_file_its_classes_are_made_with(bundle: Bundle, tmp_path: Path) -> None:
    model = bundle("ws-50k") / "student.onnx"
    info = info_of(single(bundle("ws-50k"), tmp_path / "demo.html")[0])
    assert info["digest"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (info["profile"], info["webgpu"]) == ("fp32", False)


def test_a_page_for_webgpu_has_the_core_along(cored: Bundle, tmp_path: Path) -> None:
    runtime = replace(FAKE, webgpu=True)
    page, _ = single(cored("ws-50k"), tmp_path / "demo.html", runtime=runtime)
    assert inside(page)["student.core.onnx"] == (cored("ws-50k") / "student.core.onnx").read_bytes()
    assert info_of(page)["webgpu"] is True
    assert "student.core.onnx" not in inside(single(cored("ws-50k"), tmp_path / "plain.html")[0])


def test_a_model_in_colour_has_no_drawings_to_begin_with(bundle: Bundle, tmp_path: Path) -> None:
    page, _ = single(bundle("gn-50k"), tmp_path / "demo.html")
    assert "examples" not in info_of(page)
    assert '<div id="classes-part" hidden>' in page


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("gn-50k", {"gallery": None}, "nothing to show"),
        ("ws-50k", {"gallery": make_gallery(dim=8)}, "embeddings of 8 numbers, the model 16"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    bundle: Bundle, tmp_path: Path, architecture: str, changes: dict, words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        single(bundle(architecture), tmp_path / "demo.html", **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_mode_gets_the_nearest(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode='singel' is unknown.*Did you mean 'single'"):
        single(bundle("ws-50k"), tmp_path / "demo.html", mode="singel")


def test_a_missing_or_foreign_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"missing.*student\.onnx of a bundle"):
        single(tmp_path, tmp_path / "demo.html")
    (tmp_path / "student.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match="not a model"):
        single(tmp_path, tmp_path / "demo.html")


def test_nothing_of_somebody_else_is_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    with pytest.raises(ExportError, match=r"such as dear\.txt"):
        single(bundle("ws-50k"), tmp_path / "letters", mode="folder")
    with pytest.raises(ExportError, match="is a folder"):
        single(bundle("ws-50k"), tmp_path / "letters")
    with pytest.raises(ExportError, match="is a file"):
        single(bundle("ws-50k"), tmp_path / "letters" / "dear.txt", mode="folder")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"


def test_a_place_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written: .*file is a file, where a folder is needed"):
        single(bundle("ws-50k"), tmp_path / "file" / "demo.html")
