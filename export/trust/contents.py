"""What the files of a bundle say must agree: model, labels, report, bill of materials."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from onnx import ModelProto, helper

from edgecmd.settings import FITS, SQUEEZE
from export.device.properties import CORE
from export.documents.requirements import lowest_ir_version, requirements, requirements_text
from export.graph.front_graph import KINDS, SCALED
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import FORMAT_VERSION, ExportSpec
from export.trust.errors import AGAIN, TrustError, content_of
from export.trust.gate import is_core
from export.trust.listing import BOM, CARD, DEMO, LABELS, MODEL, REPORT, is_format, profile_of

LARGEST_SIZE, LARGEST_SCALE = 1 << 16, 1 << 20
MOST_RATE_HZ = 1 << 20
SIZES = ("image_size", "channels", "embedding_dim")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a model's file says about itself.

    Attributes:
        file: Its name.
        profile: Its ``edgecmd.profile``; empty in older files.
        opset: Version of its operator set.
        architecture: Topology of the student.
        image_size: Side of the square that the student sees, in pixels.
        channels: Channels of the input.
        embedding_dim: Dimension of the embedding.
        classes: Names in the order of ``scores``; empty without a head.
        second: Output beside ``embedding`` where there are classes: ``scores``, of a dense student ``mask``.
        license: Licence of the weights.
        input_dtype: Type of the input's elements.
        input_rank: Dimensions of the input.
        front_end: Kind of the raw input.
        preprocess: What the graph does with it.
        requires: Oldest versions that it runs with.
    """

    file: str
    profile: str
    opset: int
    architecture: str
    image_size: int
    channels: int
    embedding_dim: int
    classes: tuple[str, ...]
    license: str
    second: str
    input_dtype: np.dtype[Any]
    input_rank: int
    front_end: str
    preprocess: Mapping[str, Any]
    requires: Mapping[str, Any]

    @property
    def dense(self) -> bool:
        """Whether it tells something of each pixel."""
        return KINDS[self.front_end].dense

    @property
    def core(self) -> bool:
        """Whether it takes what the student sees, in place of a raw input."""
        return self.profile == CORE

    @property
    def rate_hz(self) -> int | None:
        """Of recordings, samples per second; None for others."""
        return self.preprocess.get("rate_hz")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return ("embedding", self.second) if self.classes else ("embedding",)

    @property
    def widths(self) -> dict[str, int]:
        """Size of the second axis of each output."""
        return {"embedding": self.embedding_dim, self.second: len(self.classes)}


def read_card(name: str, model: ModelProto) -> Card:
    """Properties of a model that has passed the gate, checked against its inputs and outputs.

    Raises:
        TrustError: A property is missing or contradicts the graph; the message names both.
    """
    properties = {entry.key.removeprefix("edgecmd."): entry.value for entry in model.metadata_props}
    version = properties.get("format")
    if version != FORMAT_VERSION:
        raise TrustError(
            f"{name} has edgecmd.format={version!r}; allowed is {FORMAT_VERSION!r}. Use the edgecmd that made"
            " it."
        )
    profile, port = properties.get("profile", ""), model.graph.input[0].type.tensor_type
    try:
        preprocess = parse_json(properties["preprocess"])
        if not isinstance(preprocess, dict):
            raise ValueError("edgecmd.preprocess is not a JSON object")
        sizes = {key: _positive(properties[key]) for key in SIZES}
        card = Card(
            file=name,
            profile=profile,
            opset=model.opset_import[0].version,
            architecture=properties["architecture"],
            classes=names(parse_json(properties["classes"])),
            license=properties["license"],
            second=model.graph.output[1].name if len(model.graph.output) > 1 else "scores",
            input_dtype=helper.tensor_dtype_to_np_dtype(port.elem_type),
            input_rank=len(port.shape.dim),
            front_end=properties["front_end"],
            preprocess=preprocess,
            requires=_object(properties["requires"]),
            **sizes,
        )
    except (KeyError, ValueError, RecursionError) as error:
        raise TrustError(f"{name} has broken edgecmd properties: {error!r:.200}. {AGAIN}") from error
    if card.front_end not in FRONT_ENDS:
        raise TrustError(
            f"{name} has front_end={card.front_end[:80]!r}; allowed are {', '.join(FRONT_ENDS)}. {AGAIN}"
        )
    if profile_of(name) not in (None, profile):
        raise TrustError(f"{name} has edgecmd.profile={profile[:80]!r}; its name says another. {AGAIN}")
    if card.core != is_core(model):
        raise TrustError(
            f"{name} has edgecmd.profile={profile!r} and takes {model.graph.input[0].name!r}; a file of the"
            f" profile {CORE} takes {SCALED!r}, and no other does. {AGAIN}"
        )
    _refuse_contradictions(card, model)
    _refuse_other_versions(card, model)
    _refuse_other_preprocess(card)
    return card


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text[:80]!r} is not a JSON object")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if str(value) != text:
        raise ValueError(f"{text!r:.80} is not {value} in plain digits")
    if not 1 <= value <= LARGEST_SIZE:
        raise ValueError(f"{value} is not in 1 to {LARGEST_SIZE}")
    return value


def names(value: object) -> tuple[str, ...]:
    """Names of classes from JSON.

    Raises:
        ValueError: It is not a list of different words.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("classes are not a list of words")
    if len(set(value)) != len(value):
        raise ValueError("two classes have one name")
    return tuple(value)


def _refuse_contradictions(card: Card, model: ModelProto) -> None:
    """Sizes in the properties against sizes in the graph."""
    found = tuple(one.name for one in model.graph.output)
    if found != card.outputs:
        raise TrustError(
            f"{card.file} has {len(card.classes)} classes in its properties but the outputs {list(found)};"
            f" allowed are {list(card.outputs)}. {AGAIN}"
        )
    for one in model.graph.output:
        width = one.type.tensor_type.shape.dim[1]
        if width.HasField("dim_value") and width.dim_value != card.widths[one.name]:
            raise TrustError(
                f"{card.file} has the output {one.name} of width {width.dim_value}, but its properties say"
                f" {card.widths[one.name]}. {AGAIN}"
            )
    # Of a line, such as a recording, the core's sizes are those of the golden values.
    if card.input_rank != 4 or KINDS[card.front_end].is_line:
        return
    expected = (card.image_size, card.image_size, KINDS[card.front_end].raw_channels(card.channels))
    if card.core:
        expected = (card.channels, card.image_size, card.image_size)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], expected, strict=True):
        if dim.HasField("dim_value") and dim.dim_value != size:
            raise TrustError(
                f"{card.file} takes inputs with a size of {dim.dim_value}, but its properties say {expected}."
                f" {AGAIN}"
            )


def _refuse_other_versions(card: Card, model: ModelProto) -> None:
    """What it says that it needs is what its operator set and file format need."""
    needed, lowest = requirements(card.opset), lowest_ir_version(model)
    if model.ir_version != lowest:
        raise TrustError(
            f"{card.file} has ir_version={model.ir_version}; allowed is {lowest}, the lowest that goes with"
            f" opset {card.opset}. {AGAIN}"
        )
    if card.requires != needed:
        raise TrustError(
            f"{card.file} says that it requires {dict(card.requires)!r:.200}; opset {card.opset} requires"
            f" {needed}. {AGAIN}"
        )


def _refuse_other_preprocess(card: Card) -> None:
    """What it says of its input is what the front end of that name does."""
    found = card.preprocess
    offset, scale = found.get("offset", 0.0), found.get("scale", 1.0)
    if not (_is_number(offset) and _is_number(scale)):
        raise TrustError(
            f"{card.file} has offset={offset!r:.80}, scale={scale!r:.80}; allowed are numbers up to"
            f" {LARGEST_SCALE:,}. {AGAIN}"
        )
    fit = found.get("fit", SQUEEZE)
    if fit not in FITS:
        raise TrustError(f"{card.file} has fit={fit!r:.80}; allowed are {', '.join(FITS)}. {AGAIN}")
    expected = FRONT_ENDS[card.front_end].metadata(spec_of(card))
    for key in sorted({*expected, *found}):
        if found.get(key) != expected.get(key):
            raise TrustError(
                f"{card.file} has {key}={found.get(key)!r:.80} in edgecmd.preprocess; the front end"
                f" {card.front_end!r} has {expected.get(key)!r}. {AGAIN}"
            )


def spec_of(card: Card) -> ExportSpec:
    """What a model says about itself, without its head, as what an export is asked for.

    Raises:
        TrustError: The rate of its recordings is none.
    """
    found = card.preprocess
    return ExportSpec(
        architecture=card.architecture,
        image_size=card.image_size,
        channels=card.channels,
        embedding_dim=card.embedding_dim,
        offset=float(found.get("offset", 0.0)),
        scale=float(found.get("scale", 1.0)),
        license=card.license,
        front_end=card.front_end,
        fit=found.get("fit", SQUEEZE),
        rate_hz=_rate_of(card),
    )


def _rate_of(card: Card) -> int:
    """Samples a second that a file of recordings takes; 0 of others, which have none."""
    rate = card.rate_hz
    if not KINDS[card.front_end].has_rate:
        return 0
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= MOST_RATE_HZ:
        raise TrustError(f"{card.file} has rate_hz={rate!r:.80}; allowed are 1 to {MOST_RATE_HZ:,}. {AGAIN}")
    return rate


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_SCALE


def check_contents(copy: Path, digests: Mapping[str, str], cards: Sequence[Card]) -> str:
    """Compare labels, report and bill of materials with the models.

    Args:
        copy: Our copy of the bundle.
        digests: SHA-256 of each file.
        cards: What the models say about themselves, `student.onnx` first.

    Returns:
        What was found, for the report.

    Raises:
        TrustError: The message names the file, what it says, and what the model says.
    """
    main = cards[0]
    if main.core:
        raise TrustError(f"{MODEL} is a {CORE}, which takes no raw input. {AGAIN}")
    for card in cards[1:]:
        for key in (*SIZES, "architecture", "classes", "license", "front_end", "preprocess", "input_dtype"):
            if key == "input_dtype" and card.core:
                continue
            if getattr(card, key) != getattr(main, key):
                raise TrustError(
                    f"{card.file} has {key}={getattr(card, key)!r:.200}, but {MODEL} has"
                    f" {getattr(main, key)!r:.200}. {AGAIN}"
                )
    with content_of(LABELS):
        _check_labels(copy, digests, main)
    with content_of(REPORT):
        _check_report(copy, digests, cards)
    if BOM in digests:
        with content_of(BOM):
            _check_bom(copy, digests, main)
    if CARD in digests:
        _check_card(_text(copy / CARD), main)
    if DEMO in digests:
        _text(copy / DEMO)
    return f"format {FORMAT_VERSION}, {main.architecture}, {len(main.classes)} classes"


def _check_labels(copy: Path, digests: Mapping[str, str], card: Card) -> None:
    if (LABELS in digests) != bool(card.classes):
        raise TrustError(
            f"{MODEL} has {len(card.classes)} classes, so {LABELS} must"
            f" {'be there' if card.classes else 'be absent'}. {AGAIN}"
        )
    if not card.classes:
        return
    value = read_json(copy / LABELS)
    try:
        labels = names(value)
    except ValueError as error:
        raise TrustError(f"{LABELS} is not a list of different words: {error}. {AGAIN}") from error
    if labels != card.classes:
        raise TrustError(
            f"{LABELS} has {len(labels)} labels, {list(labels)!r:.200}; {MODEL} has"
            f" {len(card.classes)} classes, {list(card.classes)!r:.200}. {AGAIN}"
        )


def _check_report(copy: Path, digests: Mapping[str, str], cards: Sequence[Card]) -> None:
    report, card = read_json(copy / REPORT), cards[0]
    if not isinstance(report, dict):
        raise TrustError(f"{REPORT} is not a JSON object. {AGAIN}")
    expected: dict[str, object] = {
        "format": FORMAT_VERSION,
        "opset": card.opset,
        "requires": card.requires,
        "front_end": card.front_end,
        "preprocess": card.preprocess,
        "architecture": card.architecture,
        "image_size": card.image_size,
        "channels": card.channels,
        "embedding_dim": card.embedding_dim,
        "license": card.license,
    }
    # Bundles from before the report told the rate are as they were.
    if "rate_hz" in report:
        expected["rate_hz"] = card.rate_hz
    for key, value in expected.items():
        if report.get(key) != value or isinstance(report.get(key), bool):
            raise TrustError(
                f"{REPORT} has {key}={report.get(key)!r:.200}, but {MODEL} has {value!r}. {AGAIN}"
            )
    classes = list(card.classes)
    if report.get("classes", classes) != classes or report.get("num_classes", len(classes)) != len(classes):
        raise TrustError(
            f"{REPORT} has classes={report.get('classes')!r:.200},"
            f" num_classes={report.get('num_classes')!r:.20}; {MODEL} has {len(classes)}, {classes!r:.200}."
            f" {AGAIN}"
        )
    found = report.get("profiles")
    listed = {card.profile: card.file for card in cards}
    if not isinstance(found, dict) or listed != {name: _file(one) for name, one in found.items()}:
        raise TrustError(f"{REPORT} has profiles={found!r:.200}; the bundle has {listed}. {AGAIN}")
    _check_formats(report, digests)
    files = report.get("files")
    if not isinstance(files, dict) or MODEL not in files:
        raise TrustError(f"{REPORT} does not list {MODEL} under files. {AGAIN}")
    for name, entry in files.items():
        found = {"bytes": (copy / name).stat().st_size, "sha256": digests[name]} if name in digests else None
        if found is None or entry != found:
            raise TrustError(
                f"{REPORT} describes {name[:80]!r} as {entry!r:.200}, but it is"
                f" {found or 'not in the bundle'}. {AGAIN}"
            )


def _check_formats(report: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """The files for phones are those that the report lists."""
    formats, there = report.get("formats", {}), sorted(filter(is_format, digests))
    if not isinstance(formats, dict) or sorted(formats) != there:
        raise TrustError(f"{REPORT} has formats={formats!r:.200}; the bundle has the files {there}. {AGAIN}")


def _file(entry: object) -> object:
    return entry.get("file") if isinstance(entry, dict) else None


def _check_bom(copy: Path, digests: Mapping[str, str], card: Card) -> None:
    """The hashes in the bill of materials that belong to files of the bundle, and the licence."""
    bom = read_json(copy / BOM)
    if not isinstance(bom, dict) or bom.get("bomFormat") != "CycloneDX":
        raise TrustError(f"{BOM} has no bomFormat 'CycloneDX'. {AGAIN}")
    for name, digest in _hashes(bom):
        if name in digests and digest != digests[name]:
            raise TrustError(f"{BOM} gives {name} the SHA-256 {digest[:16]!r}..., which it has not. {AGAIN}")
    expected = [{"license": {"name": card.license}}]
    found = _licences(bom)
    other = [one for one in found if one != expected]
    if other or not found:
        raise TrustError(
            f"{BOM} has licenses={other[0] if other else None!r:.200}; {card.file} has {card.license!r:.200}."
            f" {AGAIN}"
        )


def _licences(value: object) -> list[object]:
    """The licences of every part that has some."""
    if isinstance(value, list):
        return [one for part in value for one in _licences(part)]
    if not isinstance(value, dict):
        return []
    own = [value["licenses"]] if "licenses" in value else []
    return own + [one for part in value.values() for one in _licences(part)]


def _check_card(text: str, card: Card) -> None:
    """The card says the oldest versions and the licence of the weights as the model does."""
    for expected in (f" needs {requirements_text(card.requires)},", f"Weights: {card.license}. "):
        if expected not in text:
            raise TrustError(f"{CARD} does not say {expected.strip()!r:.200}, as {card.file} does. {AGAIN}")


def _hashes(value: object) -> list[tuple[str, str]]:
    """Name and SHA-256 of every part that has both."""
    found: list[tuple[str, str]] = []
    if isinstance(value, list):
        for part in value:
            found += _hashes(part)
    elif isinstance(value, dict):
        hashes = value.get("hashes")
        if isinstance(hashes, list) and isinstance(value.get("name"), str):
            found += [
                (value["name"], str(one.get("content")))
                for one in hashes
                if isinstance(one, dict) and one.get("alg") == "SHA-256"
            ]
        for part in value.values():
            found += _hashes(part)
    return found


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a JSON file of a stranger.

    Raises:
        TrustError: It is not UTF-8, not JSON, holds NaN, or has a key twice.
    """
    try:
        return parse_json(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TrustError):
            raise
        raise TrustError(f"{path.name} is not valid JSON: {error}. {AGAIN}") from error


def parse_json(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """JSON without NaN and without a key that is there twice.

    Raises:
        ValueError: It is something else.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TrustError(
            f"{path.name} is not UTF-8 text: byte {error.start} is not a letter. {AGAIN}"
        ) from error
