"""Names, code points and SVG text of the icon sets, and what Unicode says about an emoji.

A concept is written as its code points: lower-case hexadecimal of at least four digits, joined by
``-``, without the variation selector fe0f, such as ``1f468-200d-1f52c``.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VARIATION_SELECTOR = "fe0f"
TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
# FxEmoji was drawn in 2015: its names are matched to emoji of this version and older only.
NEWEST_NAMED_VERSION = 1.0
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' viewBox="{left} {top} {width} {height}">{body}</svg>'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IconSet:
    """One set of icons.

    Attributes:
        svg: SVG text by icon name, in the order of the package.
        concept: Concept by icon name, as far as the package knows it.
    """

    svg: Mapping[str, str]
    concept: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Emoji:
    """What Unicode (CLDR) says about one emoji.

    Attributes:
        group: One of the groups of the emoji list, such as ``food-drink``.
        subgroup: Such as ``food-fruit``.
        names: Its names, squashed by `squash`; none for an emoji newer than `NEWEST_NAMED_VERSION`.
    """

    group: str
    subgroup: str
    names: frozenset[str]

    @property
    def is_drawn(self) -> bool:
        """Whether it is an image of its own: no flag, no letter of a flag, no part of other emoji."""
        is_flag = "flag" in self.subgroup or self.subgroup == "regional-indicator"
        return self.group not in ("flags", "component") and not is_flag


def normalise(code_points: str) -> str:
    """Concept of code points in any of the spellings of the packages."""
    parts = (part.zfill(4) for part in code_points.lower().split("-"))
    return "-".join(part for part in parts if part != VARIATION_SELECTOR)


def has_tone(concept: str) -> bool:
    """Whether ``concept`` is an emoji with a skin tone."""
    parts = concept.split("-")
    return len(parts) > 1 and not TONES.isdisjoint(parts)


def squash(name: str) -> str:
    """``name`` in lower case with letters and digits only, as FxEmoji spells it."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))


def svg_text(icon: Mapping[str, Any], *, width: int, height: int) -> str:
    """SVG document of one icon; ``width`` and ``height`` are the defaults of its set."""
    return SVG.format(
        left=icon.get("left", 0),
        top=icon.get("top", 0),
        width=icon.get("width", width),
        height=icon.get("height", height),
        body=icon["body"].replace("currentColor", "#000"),
    )


def parse_icons(members: Mapping[str, bytes]) -> IconSet:
    """Icon set out of ``icons.json`` and ``chars.json`` of an ``@iconify-json`` package."""
    content = json.loads(members["icons.json"])
    width, height = content.get("width", 16), content.get("height", 16)
    svg = {name: svg_text(icon, width=width, height=height) for name, icon in content["icons"].items()}
    characters = json.loads(members["chars.json"])
    return IconSet(svg=svg, concept={name: normalise(points) for points, name in characters.items()})


def old_names(entry: Mapping[str, Any], concept: str) -> frozenset[str]:
    """Squashed names (CLDR's and Unicode's) of an emoji that is old enough; else none."""
    try:
        is_old = float(entry["unicode"]) <= NEWEST_NAMED_VERSION
    except ValueError:
        is_old = False
    if not is_old or entry["group"] == "extras-openmoji":
        return frozenset()
    formal = "" if "-" in concept else unicodedata.name(chr(int(concept, 16)), "")
    return frozenset(squash(name) for name in (entry["annotation"], formal) if name)


def parse_emoji(content: bytes) -> dict[str, Emoji]:
    """Emoji by concept, out of OpenMoji's ``openmoji.json``."""
    found = {}
    for entry in json.loads(content):
        concept = normalise(entry["hexcode"])
        names = old_names(entry, concept)
        found[concept] = Emoji(group=entry["group"], subgroup=entry["subgroups"], names=names)
    return found


def match_names(names: Iterable[str], emoji: Mapping[str, Emoji]) -> dict[str, str]:
    """Concept by name, for a set that has names only.

    Guarantees:
        A name matches where it is the name of one emoji and not a part of the name of another one:
        FxEmoji's ``star`` is the glowing star, its ``cat`` the cat's face.
    """
    plain = {concept: one for concept, one in emoji.items() if not has_tone(concept)}
    matched = {}
    for name in names:
        squashed = squash(name)
        similar = {concept for concept, one in plain.items() if any(squashed in full for full in one.names)}
        if len(similar) == 1 and squashed in plain[min(similar)].names:
            matched[name] = min(similar)
    return matched
