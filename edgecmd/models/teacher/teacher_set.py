"""The teacher that settings name: one, or several side by side, reduced with the help of public images.

Each teacher's feature has unit length before it joins the others, so none outweighs them. The
principal components are those of public images alone; no pair enters them.

Shapes: B batch, N public images, C numbers of all teachers together, D embedding dimension.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.catalogue.teacher_rows import TEACHER_KINDS, kind_of_teacher, listed
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.own_code import is_own
from edgecmd.data.pairs import Images, fingerprint
from edgecmd.models.projection import principal_components
from edgecmd.models.teacher.feature_cache import cached_features, kept
from edgecmd.models.teacher.teachers import OWN, SETTING, TEACHERS, Teacher, load_teacher
from edgecmd.settings import TeacherConfig

# Settings that hold for every network of anyone's own in a list.
PREPARED = ("size", "mean", "std", "crop")


def _prefixes(attribute: str) -> str:
    return ", ".join(f"{name}:" for name, one in TEACHER_KINDS.items() if getattr(one, attribute))


class Concatenated(nn.Module):
    """Networks that see the same images, their unit features side by side, then components of these.

    Args:
        networks: Each (B, 3, H, W) to (B, own width).
        components: Mean and components in columns, (C, 1 + D); None leaves the features as they are.
    """

    components: Tensor | None

    def __init__(self, networks: Sequence[nn.Module], components: np.ndarray | None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("components", None if components is None else torch.from_numpy(components))

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embed a batch of inputs, see `edgecmd.data.modalities.table.source_input`."""
        found = torch.cat([functional.normalize(one(image).float(), dim=1) for one in self.networks], dim=1)
        if self.components is None:
            return found
        return (found - self.components[:, 0]) @ self.components[:, 1:]


def concat(
    parts: Sequence[Teacher],
    *,
    public: Images | None = None,
    dim: int = 0,
    power: float = 0.0,
    cache: Path | None = None,
) -> Teacher:
    """One teacher of several: their unit features side by side, then principal components of public images.

    Args:
        parts: Teachers of RGB images, at least one.
        public: Public RGB images, uint8, (N, H, W, 3); needed for ``dim``.
        dim: Components that are kept, D; 0 keeps all numbers.
        power: Power of the standard deviation along each component by which it is divided, see
            `edgecmd.settings.TeacherConfig.pca_power`.
        cache: Folder for what is computed of the public images; None keeps nothing.

    Raises:
        ConfigError: A teacher takes no RGB images; or ``dim`` is more than teachers or images allow.
        DataError: A teacher gives numbers that are not finite for a public image.

    Guarantees:
        A function of the teachers and of public images alone. ``sha256`` covers each teacher's, in their
        order, the public images, ``dim`` and ``power``. A component's largest entry is positive.
    """
    for one in parts:
        if not one.sees_colour:
            raise ConfigError("Teachers side by side must take RGB images, but one takes something else.")
    if not parts:
        raise ConfigError("The list of teachers is empty. Give at least one.")
    width = sum(one.dim for one in parts)
    of_public = ""
    if dim:
        public = _enough(public, dim=dim, width=width)
        # Nothing for 0, so that digests and kept features of earlier versions stay.
        of_public = f":{dim}:{fingerprint(public)}{f':{power:g}' if power else ''}"
    sha256 = hashlib.sha256(f"concat:{':'.join(one.sha256 for one in parts)}{of_public}".encode()).hexdigest()
    components = None
    if public is not None and dim:
        images = public
        components = kept(
            "components",
            lambda: sha256,
            lambda: _fitted(parts, images, dim=dim, power=power, cache=cache),
            shape=(width, 1 + dim),
            cache_dir=cache,
        )
    names = " + ".join(one.recipe.get(OWN) or _shipped(one) for one in parts)
    scaled = f" over their deviation to the power {power:g}" if power else ""
    reduced = f", {dim} principal components of public pictures{scaled}" if dim else ""
    return Teacher(
        network=Concatenated([one.network for one in parts], components).eval().requires_grad_(False),
        embedding_dim=dim or width,
        sha256=sha256,
        recipe={OWN: f"{names}{reduced}"},
    )


def _shipped(teacher: Teacher) -> str:
    return next((name for name, one in TEACHERS.items() if one.sha256 == teacher.sha256), "one of a file")


def _enough(public: Images | None, *, dim: int, width: int) -> Images:
    num = 0 if public is None else len(public)
    if public is None or dim > min(width, num - 1):
        raise ConfigError(
            f"teacher.pca_dim={dim} needs more than {dim} public images, and at most the {width} numbers"
            f" that the teachers give together; there are {num} images. Lower it, or give more images."
        )
    return public


def _fitted(
    parts: Sequence[Teacher], public: Images, *, dim: int, power: float, cache: Path | None
) -> Float[np.ndarray, "width columns"]:
    """Mean and components of the unit features of public images, float32, (C, 1 + D)."""
    each = [np.asarray(cached_features(one, public, cache_dir=cache), dtype=np.float64) for one in parts]
    rows = np.concatenate(
        [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in each], axis=1
    )
    bad = int((~np.isfinite(rows).all(axis=1)).sum())
    if bad:
        raise DataError(
            f"The teachers give numbers that are not finite for {bad} of {len(public)} public images. Check"
            " their weights, mean and std."
        )
    mean, weight, spread = principal_components(rows, dim)
    weight = weight / np.maximum(spread, 1e-12) ** power
    return np.concatenate([mean[:, None], weight], axis=1).astype(np.float32)


def named_teacher(
    named: TeacherConfig, *, data_set: str, public: Callable[[], Images], cache: Path | None
) -> Teacher:
    """The teacher that settings name.

    Args:
        named: Name or names, and how their images are made.
        data_set: ``data.name``, whose row names a teacher where none is named; empty for the default one.
        public: Gives public RGB images, uint8, (N, H, W, 3); asked where ``pca_dim`` is set.
        cache: Folder for what is computed of these; None keeps nothing.

    Raises:
        ConfigError: A name stands for no teacher, or a setting does not suit those that are named.
        DataError: A file cannot be read or does not fit.
    """
    names = listed(named.name)
    _refuse_unsuited(named, names)
    files = iter(listed(named.weights))
    parts = [_part(one, named, files=files) for one in names]
    if not names:
        parts = [load_teacher(Path(named.path) if named.path else None, data_set=data_set)]
    if len(parts) == 1 and not named.pca_dim:
        return parts[0]
    return concat(
        parts,
        public=public() if named.pca_dim else None,
        dim=named.pca_dim,
        power=named.pca_power,
        cache=cache,
    )


def _part(name: str, named: TeacherConfig, *, files: Iterator[str]) -> Teacher:
    kind = kind_of_teacher(name)
    if kind is None and not is_own(name):
        return load_teacher(name=name)
    return Teacher.of(
        name,
        size=named.size or None,
        mean=named.mean or None,
        std=named.std or None,
        crop=named.crop or None,
        weights=next(files, None) if kind is not None and kind.has_weights else None,
        output=named.output if kind is not None and kind.has_outputs else "",
    )


def _refuse_unsuited(named: TeacherConfig, names: Sequence[str]) -> None:
    """Refuse settings that none of the named teachers takes, and another number of files than is needed."""
    if not all(names):
        raise ConfigError(f"{SETTING}={named.name!r} has an empty name between its commas. Remove it.")
    kinds = [kind_of_teacher(one) for one in names]
    networks = [one for one in names if is_own(one)]
    unused = [one for one in PREPARED if getattr(named, one) and not networks]
    unused += ["output"] if named.output and not any(one and one.has_outputs for one in kinds) else []
    if unused:
        own = ", ".join((*(f"{one}:" for one in TEACHER_KINDS), "module:factory"))
        whose = "ONNX files (onnx:)" if unused[0] == "output" else f"networks of your own ({own})"
        raise ConfigError(
            f"teacher.{unused[0]}={getattr(named, unused[0])!r} is for {whose}, and none is named:"
            f" {SETTING}={named.name!r}. A teacher that ships, or comes from `edgecmd pretrain`, has its"
            " own. Leave it out."
        )
    needed, given = sum(one is not None and one.has_weights for one in kinds), len(listed(named.weights))
    # Without any the network's own sentence says where to get them.
    if given and given != needed:
        raise ConfigError(
            f"teacher.weights={named.weights!r} names {given} files, and {SETTING}={named.name!r} has"
            f" {needed} of {_prefixes('has_weights')}. Give one for each, in the same order, separated by"
            " commas."
        )
