"""What a piece of furniture is, told by its English name and its category; nobody checked all 820 by hand.

The rules are ordered and the first that fits decides; what fits none is ``other``. Names that would
mislead a rule come first: a mailbox is no cabinet, a football table no table, a chest freezer no chest.
"""

import re

from edgecmd.datasets.build.furniture.libraries import Piece

STRUCTURE = ("wall", "floor")
KINDS = (
    "bed",
    "chair",
    "sofa",
    "table",
    "cabinet",
    "lamp",
    "appliance",
    "sanitary",
    "plant",
    "person",
    "screen",
    "opening",
)
OTHER = "other"
# Of the pixels of a room.
CLASSES = (*STRUCTURE, *KINDS, OTHER)
# Out of doors nothing else is what its name says: a stone lantern gives no light, a dog house has no bed.
OUTDOOR_KINDS = ("chair", "table", "sofa", "plant")
OUTDOORS = ("Exterior", "Staircases")
VEHICLES = "Vehicles"

_RULES = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            OTHER,
            r"mail ?box|letter ?box|letters box|toy|doll|tennis|football|potty|table fan|pool|remote",
        ),
        (
            OTHER,
            r"\bbooks?$|towel|curtain|rug$|carpet|picture|frame|hanger|shower head|mattress|video projector",
        ),
        (OTHER, r"living room|abdominal|intercom|flower ?box|plant box|parking|safe$|swing|hut$"),
        ("appliance", r"chest freezer"),
        ("cabinet", r"bedside|night ?stand|changing table|(tv|television) (cabinet|stand|unit)"),
        ("lamp", r"lamp|\blights?\b|lantern|candle|spotlight|fluorescent|chandelier|sconce"),
        (
            "sanitary",
            r"\bbath\b|bathtub|bidet|toilets? unit|lavatory|washbasin|basin|\bsink|urinal|shower|jacuzzi",
        ),
        ("screen", r"\btv\b|television|laptop|imac|ibook|screen$|monitor|tablet"),
        ("sofa", r"sofa|couch|futon|day ?bed|settee|love ?seat"),
        ("chair", r"chair|stool|\bbench$|\bseat\b|ottoman|pouf|\bpuff\b"),
        ("bed", r"\bbeds?\b|crib|cradle|bunk"),
        ("table", r"table$|\btables?\b|desk\b|\bisland$|workbench"),
        (
            "cabinet",
            r"cabinet|cupboard|wardrobe|bookcase|shel(f|ves)$|dresser|drawers|chest\b|locker|sideboard|buffet",
        ),
        (
            "appliance",
            r"fridge|refrigerator|oven|stove|cooker|cooktop|washing|washer|\bdryer|microwave|freezer|boiler"
            r"|\bhood\b|water heater|water cooler|radiator|\bheater",
        ),
        (
            "plant",
            r"plant|\btree|ficus|bamboo|cactus|flowers?\b|tulip|lily|yucca|orchid|\bpalm|bonsai|\bpine\b|\bbush"
            r"|blossom|spathiphyllum|maple|poplar|cypress|acacia|beech|hedge",
        ),
        ("opening", r"\bdoors?\b|\bwindows?\b|shutter"),
    )
)
_PEOPLE = re.compile(r"male|\bman\b|woman|boy|girl|mannequin|child")


def kind_of(piece: Piece) -> str:
    """One of `KINDS`, or `OTHER`."""
    name = piece.name.lower()
    if piece.category == VEHICLES:
        return OTHER
    if piece.category == "Characters":
        return "person" if _PEOPLE.search(name) else OTHER
    found = next((kind for kind, pattern in _RULES if pattern.search(name)), OTHER)
    return OTHER if piece.category in OUTDOORS and found not in OUTDOOR_KINDS else found
