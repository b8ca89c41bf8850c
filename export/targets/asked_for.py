"""The files that somebody asks about: those of a bundle, one file, or a built-in student that is not trained.

Size, memory and operators do not depend on the weights, so a built-in student is asked about by its name.
"""

from pathlib import Path

from edgecmd.core.errors import DataError, nearest
from edgecmd.core.seeding import torch_generator
from edgecmd.data.modalities.table import modality_for
from edgecmd.data.user_files.reading import reading
from edgecmd.models.students import STUDENTS, build_student, is_dense, student_row
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.front_graph import KINDS
from export.graph.frontends import FRONT_ENDS, front_end_of
from export.graph.spec import ExportSpec
from export.graph.to_onnx import to_onnx
from export.profiles.table import PROFILE_KEY, Calibration, choose_profiles, make_profile
from export.trust.gate import gate
from export.trust.listing import MODEL, profile_of

# Of the default teacher; and of recordings, a second at the default rate.
EMBEDDING_DIM, RATE_HZ = 128, 8000


def files_of(asked: str, *, image_size: int = 64, profiles: str = "fp32,w8,int8") -> dict[str, bytes]:
    """ONNX files by profile, or by name.

    Args:
        asked: A bundle, a run folder with one, an ONNX file, or the name of a built-in student.
        image_size: Of a built-in student; of others the file says it.
        profiles: Of a built-in student, such as ``w8,int8``.

    Raises:
        DataError: It is none of these, or a file cannot be read or fails the gate.
        ConfigError: A profile is unknown.
    """
    path = Path(asked)
    if asked in STUDENTS and not path.exists():
        return built_in(asked, image_size=image_size, profiles=profiles)
    folder = path / "export" if (path / "export" / MODEL).is_file() else path
    if (folder / MODEL).is_file():
        models = sorted(
            one for one in folder.glob("student*.onnx") if one.name == MODEL or profile_of(one.name)
        )
    elif path.is_file():
        models = [path]
    else:
        raise DataError(
            f"{asked!r} is no bundle, no ONNX file and no built-in student. {nearest(asked, STUDENTS)}"
        )
    return {_name(data, one): data for one in models for data in [_read(one)]}


def _read(path: Path) -> bytes:
    with reading(path, what="model", way_out="Export again."):
        return path.read_bytes()


def _name(data: bytes, path: Path) -> str:
    """The profile that the file says it is, once the gate has let it pass; else its name."""
    model = gate(data, name=path.name)
    said = {entry.key: entry.value for entry in model.metadata_props}
    return str(said.get(PROFILE_KEY, path.name))


def built_in(architecture: str, *, image_size: int, profiles: str) -> dict[str, bytes]:
    """Files of a student with random weights and without a head, by profile.

    Args:
        architecture: A key of `edgecmd.models.students.STUDENTS`.
        image_size: Side of its input; recordings last a second instead, strings have their usual length.
        profiles: Such as ``w8,int8``.

    Raises:
        ConfigError: A profile is unknown.
    """
    front_end = _front_end(architecture)
    kind = KINDS[front_end]
    line = RATE_HZ if kind.has_rate else kind.sizes[0]
    spec = ExportSpec(
        architecture=architecture,
        image_size=line if kind.is_line else image_size,
        channels=1,
        embedding_dim=EMBEDDING_DIM,
        offset=1.0,
        scale=-0.5,
        license="Apache-2.0",
        front_end=front_end,
        rate_hz=RATE_HZ if kind.has_rate else 0,
    )
    generator = torch_generator(0, "fits")
    student = build_student(architecture, in_channels=1, embedding_dim=EMBEDDING_DIM, generator=generator)
    data = to_onnx(Deployable(fold(rebuild(student, spec)), spec).eval())
    ranges = Calibration(inputs=FRONT_ENDS[spec.front_end].golden(spec)[0], description="made-up inputs")
    return {name: make_profile(data, name, calibration=ranges) for name in choose_profiles(profiles)}


def _front_end(architecture: str) -> str:
    """Of the first modality whose students begin as this one does; images come first."""
    return front_end_of(modality_for(student_row(architecture).front), dense=is_dense(architecture))
