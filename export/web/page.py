"""The page: one HTML file with everything inside, or a folder to be served.

Shapes: N images, D embedding dimension.
"""

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from edgecmd.core.artefacts import declare, write_artefact
from edgecmd.core.errors import ExportError, choose
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.machine import explain
from edgecmd.run import Run
from edgecmd.settings import SQUEEZE
from export.device.student import Student
from export.documents.bundle_files import write_sums
from export.trust.listing import DEMO, MODEL
from export.web.gallery import Gallery, fixed_point, gallery_of_run, sheet
from export.web.ortweb import LICENSE, LICENSE_TEXT, VERSION, OrtWeb
from export.web.page_parts import (
    CORE_MODEL,
    GOLDEN_INPUTS,
    SECOND,
    STRANGERS,
    Parts,
    classes_info,
    core_part,
    golden_part,
    second_part,
    strangers_part,
)

ROOM = Path(__file__).parent
RUNTIME_SCRIPT, RUNTIME_WASM = "runtime.mjs", "runtime.wasm"
INDEX, SCRIPT, STYLE, NOTICE = "index.html", "app.js", "style.css", "NOTICE.txt"
GALLERY, SHEET, EXAMPLES = "gallery.bin", "gallery.webp", "examples.bin"
FOLDER_FILES = frozenset(
    {MODEL, RUNTIME_SCRIPT, RUNTIME_WASM, INDEX, SCRIPT, STYLE, NOTICE, LICENSE, GALLERY, SHEET, EXAMPLES}
    | {CORE_MODEL, GOLDEN_INPUTS, STRANGERS, SECOND}
)
MIN_CANVAS = 256
GREY_CHANNELS = (1, 3)
# Nothing may be fetched or sent, but for the files of a served folder.
POLICY = (
    "default-src 'none'; script-src {script} 'wasm-unsafe-eval'; style-src {style}; img-src data: blob:;"
    " connect-src {connect}; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageKind:
    """A kind of page: what somebody does on it.

    Attributes:
        title: Heading where none is given.
        intro: What it does and where, with ``$model_size``.
        main: File of its own part of the page.
        scripts: Its program, in this order.
        seen_fact: What the facts show of an input; empty: nothing.
        more: Whether a second file to compare with and other inputs for a user's own classes go along.
    """

    title: str
    intro: str
    main: str
    scripts: tuple[str, ...]
    seen_fact: str = ""
    more: bool = True


# By the input of the student's file.
PAGES = {
    "image": PageKind(
        title="Draw a sketch",
        intro="Draw, and a student of $model_size finds what it knows nearest. It runs inside this page:"
        " nothing that you draw leaves this device.",
        main="draw.html",
        scripts=(
            "student.js",
            "classes.js",
            "saved.js",
            "engine.js",
            "pad.js",
            "kept.js",
            "parts.js",
            "own.js",
            "second.js",
            "app.js",
            "start.js",
        ),
        seen_fact='<div class="seen"><dt>The student sees <span id="seen-size"></span> pixels</dt><dd><canvas'
        ' id="seen" width="1" height="1" role="img" aria-label="The drawing as the student gets it"></canvas>'
        "</dd></div>\n",
    ),
    "text": PageKind(
        title="Type, and see pictures",
        intro="Type a word in any language, and a student of $model_size finds the nearest pictures. It runs"
        " inside this page: nothing that you type leaves this device.",
        main="type.html",
        scripts=("student.js", "engine.js", "strings.js", "parts.js", "type.js", "start.js"),
        more=False,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WebReport:
    """What was written.

    Attributes:
        path: The page, or ``index.html`` of the folder.
        num_bytes: Size of each part: in the page as it is there, in a folder of each file.
        total_bytes: Size of the page, or of the whole folder.
    """

    path: Path
    num_bytes: Mapping[str, int]
    total_bytes: int


def build_web(
    bundle: Path,
    out: Path,
    *,
    mode: str,
    runtime: OrtWeb,
    gallery: Gallery | None = None,
    title: str = "",
    compare: bool = True,
) -> WebReport:
    """Make a page that runs an exported student in a browser.

    Args:
        bundle: Folder of the bundle, or its .onnx file.
        out: The .html file (``single``) or the folder (``folder``); an older page there is replaced.
        mode: ``single`` opens from the disk; ``folder`` needs a web server.
        runtime: onnxruntime-web; where it computes with WebGPU, the bundle's core goes along.
        gallery: Images to find; None shows class probabilities alone.
        title: Heading of the page; empty: that of its kind.
        compare: Whether the bundle's fp32 file (w8 where that is the first) goes along, to compare with.

    Guarantees:
        The page asks nothing of any server but, in a folder, for the files beside it: its content security
        policy forbids the rest. Equal inputs give equal bytes with the same Pillow and zlib. Texts of the
        data are escaped. No path of this machine is written.

    Raises:
        ExportError: The bundle has no model or one that a page cannot show, there is nothing to show,
            or ``out`` holds something else.
        MachineError: ``out`` cannot be written.
        ConfigError: ``mode`` is unknown.
    """
    write = choose("mode", mode, MODES)
    model = bundle / MODEL if bundle.is_dir() else bundle
    student = _student(model)
    kind, info = PAGES.get(student.sensor.input_name), page_info(student, gallery=gallery)
    assert kind is not None
    parts = {MODEL: model.read_bytes(), RUNTIME_SCRIPT: runtime.script, RUNTIME_WASM: runtime.wasm}
    if gallery is not None:
        parts |= _gallery_parts(gallery, info)
    more = Parts(info={"digest": student.digest, "profile": student.profile, "webgpu": runtime.webgpu})
    more.add(golden_part(student))
    more.add(core_part(student) if runtime.webgpu and more.files and kind.more else Parts())
    more.add(second_part(student) if compare and kind.more else Parts())
    more.add(strangers_part(student, gallery.strangers if gallery is not None and kind.more else None))
    parts |= more.files
    try:
        fill = partial(_fill, info | more.info, kind=kind, gallery=gallery, title=title)
        return write(out, parts, fill, _script(kind))
    except OSError as error:
        raise explain(error, doing=f"{out} cannot be written") from error


def _student(model: Path) -> Student:
    try:
        return Student(model)
    except ValueError as error:  # an InferError
        raise ExportError(f"{error} A page needs the student.onnx of a bundle.") from error


def page_info(student: Student, *, gallery: Gallery | None) -> dict[str, object]:
    """What the page must know about the model, read from the model itself.

    Raises:
        ExportError: The model is not a student of images in grey or colour, or does not fit ``gallery``; or
            there is neither a gallery nor a head.
    """
    model, session = student.path, student.session
    properties = session.get_modelmeta().custom_metadata_map
    given, told = session.get_inputs()[0], classes_info(properties["edgecmd.classes"])
    classes = told["classes"]
    channels, dim = int(properties["edgecmd.channels"]), int(properties["edgecmd.embedding_dim"])
    is_text = given.name == "text"
    drawn = (given.name, given.type) == ("image", "tensor(uint8)") and channels in GREY_CHANNELS
    if not (drawn or is_text):
        raise ExportError(
            f"{model} takes {given.name!r} of type {given.type} with channels={channels}; a page can draw"
            " only 8-bit images with 1 or 3 channels, or take strings."
        )
    if "mask" in [one.name for one in session.get_outputs()]:
        raise ExportError(
            f"{model} predicts a class for each pixel, which the page cannot show. Use `infer.py --masks`,"
            " or build the page from a student of whole images."
        )
    if gallery is None and not classes:
        raise ExportError(
            "There is nothing to show: no gallery, and a model without classes. Build the page from a run"
            " folder, which has its teacher and public images, or export with a head."
        )
    if gallery is not None and gallery.embedding.shape[1] != dim:
        raise ExportError(
            f"The gallery has embeddings of {gallery.embedding.shape[1]} numbers, the model {dim}."
            " Build the page from the run that exported the model."
        )
    side, height = int(properties["edgecmd.image_size"]), given.shape[1]
    common = {
        **told,
        "embedding_dim": dim,
        "image_size": side,
        "license": properties.get("edgecmd.license", "unspecified"),
        "model_bytes": model.stat().st_size,
    }
    if is_text:
        return common
    preprocess = json.loads(properties["edgecmd.preprocess"])
    return {
        **common,
        # Whole blocks of the model's pixels, so that averaging is exact.
        "canvas_side": side * -(-MIN_CANVAS // side),
        "channels": channels,
        "fit": preprocess.get("fit", SQUEEZE),
        "fixed_size": height if isinstance(height, int) else 0,
        "paper": float(preprocess.get("offset", 1.0)) >= 0.5,
    }


def _gallery_parts(gallery: Gallery, info: dict[str, object]) -> dict[str, bytes]:
    """Files of the gallery; what the page must know about them goes into ``info``."""
    picture, side, columns = sheet(gallery.pictures)
    texts = {"texts": list(gallery.texts)} if gallery.texts else {}
    info["gallery"] = {"columns": columns, "names": list(gallery.names), "tile": side, **texts}
    parts = {GALLERY: fixed_point(gallery.embedding), SHEET: picture}
    examples = gallery.examples
    if examples is not None and len(examples) and info.get("channels", 1) == 1:
        size = examples.shape[1]
        info["examples"] = {"names": list(gallery.example_names), "num": len(examples), "size": size}
        parts[EXAMPLES] = np.asarray(examples).tobytes()
    if gallery.notice:
        parts[NOTICE] = gallery.notice.encode()
    return parts


def _write_single(out: Path, parts: Mapping[str, bytes], fill: Callable[..., str], script: str) -> WebReport:
    if out.is_dir():
        raise ExportError(f"{out} is a folder. Give an .html file, or use --mode folder.")
    style = (ROOM / STYLE).read_text(encoding="utf-8")
    packed = {name: _pack(data) for name, data in parts.items() if name != NOTICE}
    page = fill(
        mode="single",
        # A blob: the runtime is a module, and a module is loaded by its address.
        policy=POLICY.format(
            script=f"'{_digest(script)}' blob:", style=f"'{_digest(style)}'", connect="'none'"
        ),
        style=f"<style>{style}</style>",
        script=f"<script>{script}</script>",
        assets="\n".join(
            f'<script type="application/octet-stream" id="asset-{name}">{text}</script>'
            for name, text in packed.items()
        ),
    )
    data = page.encode()
    # The user may give it any name.
    declare("demo.html", may_leave=True)
    write_bytes_atomically(out, data)
    sizes = {name: len(text) for name, text in packed.items()}
    return WebReport(
        path=out, num_bytes={**sizes, "page": len(data) - sum(sizes.values())}, total_bytes=len(data)
    )


def _write_folder(out: Path, parts: Mapping[str, bytes], fill: Callable[..., str], script: str) -> WebReport:
    _refuse_foreign(out)
    page = fill(
        mode="folder",
        policy=POLICY.format(script="'self'", style="'self'", connect="'self'"),
        style=f'<link rel="stylesheet" href="{STYLE}">',
        script=f'<script defer src="{SCRIPT}"></script>',
        assets="",
    )
    files = {**parts, SCRIPT: script.encode(), STYLE: (ROOM / STYLE).read_bytes()}
    files[LICENSE] = LICENSE_TEXT.encode()
    # The page comes last, so that whoever opens it finds all of its parts.
    for name, data in {**files, INDEX: page.encode()}.items():
        write_artefact(out, name, data, may_leave=True, place="page")
    for name in FOLDER_FILES - {INDEX, *files}:
        (out / name).unlink(missing_ok=True)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return WebReport(path=out / INDEX, num_bytes=sizes, total_bytes=sum(sizes.values()))


# How a page can be made: one file, or a folder to be served.
MODES = {"single": _write_single, "folder": _write_folder}


def locate(folder: Path) -> tuple[Path | None, Path]:
    """Run folder, where there is one, and bundle folder.

    Raises:
        ExportError: There is no exported student.
    """
    if (folder / MODEL).is_file():
        return (folder.parent if (folder.parent / "config.toml").is_file() else None), folder
    if not (folder / "export" / MODEL).is_file():
        raise ExportError(
            f"{folder} has no exported student ({MODEL} or export/{MODEL}). Make one with"
            f" `edgecmd export {folder}`."
        )
    return (folder if (folder / "config.toml").is_file() else None), folder / "export"


def add_page(run: Run, bundle: Path, *, beside: Path, mode: str, runtime: OrtWeb) -> Path:
    """Build the page of a bundle that was just made.

    Args:
        run: Where it comes from; its public images can be found.
        bundle: The bundle.
        beside: The run folder, as messages call it.
        mode: ``single``: into the bundle, whose sums are renewed; ``folder``: into ``web`` of the run folder.
        runtime: onnxruntime-web.

    Returns:
        The page, or ``index.html`` of the folder.
    """
    out = bundle / DEMO if mode == "single" else beside / "web"
    report = build_web(bundle, out, mode=mode, runtime=runtime, gallery=gallery_of_run(run))
    if mode == "single":
        write_sums(bundle)
    return report.path


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file. Give a folder, or use --mode single.")
    foreign = sorted({path.name for path in out.iterdir()} - FOLDER_FILES) if out.exists() else []
    if foreign:
        raise ExportError(
            f"{out} contains things that are not part of a page, such as {foreign[0]}. Choose another folder."
        )


def _fill(
    info: Mapping[str, Any], *, kind: PageKind, gallery: Gallery | None, title: str, mode: str, **raw: str
) -> str:
    """The template with its values; ``raw`` is put in as it is, all else is escaped."""
    num_bytes = info["model_bytes"]
    notices = [LICENSE_TEXT, *([gallery.notice] if gallery is not None and gallery.notice else [])]
    values = {
        "canvas_side": str(info.get("canvas_side", 0)),
        "classes_hidden": "" if info["classes"] else " hidden",
        "copy_hidden": "" if gallery is not None and gallery.texts else " hidden",
        "comment": LICENSE_TEXT.replace("--", "- -"),
        "credit": f"<p>{html.escape(gallery.credit)}</p>" if gallery is not None else "",
        "embedding_dim": str(info["embedding_dim"]),
        "gallery_fact": f"<div><dt>Pictures to find</dt><dd>{len(gallery.names)}</dd></div>"
        if gallery
        else "",
        "info": embedded_json(info),
        "licenses": "\n".join(f"<pre>{html.escape(notice)}</pre>" for notice in notices),
        "mode": mode,
        "model_size": f"{num_bytes / 1e3:.0f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:.1f} MB",
        "profile": html.escape(str(info["profile"])),
        "second": info["second"]["profile"] if "second" in info else "",
        "runtime": f"onnxruntime-web {VERSION}",
        "seen_fact": kind.seen_fact,
        "title": html.escape(title or kind.title),
        "weights_license": html.escape(str(info["license"])),
        **raw,
    }
    values["intro"] = Template(kind.intro).substitute(values)
    values["main"] = _template(kind.main).substitute(values)
    return _template("template.html").substitute(values)


def _template(name: str) -> Template:
    return Template((ROOM / name).read_text(encoding="utf-8"))


def embedded_json(value: object) -> str:
    """JSON that cannot end the script element it is in, whatever its texts hold."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(kind: PageKind) -> str:
    """The program of the page, one after the other in a scope of its own."""
    sources = [(ROOM / name).read_text(encoding="utf-8") for name in kind.scripts]
    return "(() => {\n" + "\n".join(sources) + "})();\n"


def _digest(text: str) -> str:
    """What the policy allows: this very text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _pack(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
