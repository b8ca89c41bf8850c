"""A dense student as one file: parity with torch at several sizes, masks on a device, and what is refused."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from edgecmd.core.errors import ExportError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.modalities.depth import depth_input
from edgecmd.data.modalities.image import to_input
from edgecmd.models.students import Student as Network
from edgecmd.models.students import build_student
from export.bundle import Options, export_bundle
from export.device.masks import mask_of, shares, write_mask
from export.device.student import Student
from export.graph.deployable import Deployable, rebuild
from export.graph.front_dense import continued
from export.graph.spec import ExportSpec, LinearHead
from export.trust.gate import gate_file
from export.trust.verify import TaskMetric, run_torch
from export.web.page import page_info

SIDE, DIM, NAMES = 32, 8, ("floor", "bed", "lamp")
KINDS = {"image-dense": 1, "depth16-dense": 2}
ARCHITECTURES = ("seg-50k", "seg-lite0-s")


def student(front_end: str, architecture: str = "seg-50k") -> Network:
    generator = torch_generator(0, "dense-export")
    made = build_student(architecture, in_channels=KINDS[front_end], embedding_dim=DIM, generator=generator)
    for name, parameter in made.named_parameters():
        if name.endswith(("bias", "gain", "scale")) and not name.startswith("trunk.stages"):
            parameter.data.uniform_(0.2, 1.2, generator=generator)
    return made


def spec(front_end: str, architecture: str = "seg-50k") -> ExportSpec:
    generator = numpy_generator(0, "dense-head")
    head = LinearHead(
        weight=generator.normal(size=(3, DIM)).astype(np.float32) * 5,
        bias=generator.normal(size=3).astype(np.float32),
        names=NAMES,
    )
    return ExportSpec(
        architecture=architecture,
        image_size=SIDE,
        channels=KINDS[front_end],
        embedding_dim=DIM,
        offset=1.0,
        scale=-0.5,
        license="Apache-2.0",
        head=head,
        front_end=front_end,
    )


def inputs(front_end: str, num: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    generator = numpy_generator(1, "dense-inputs")
    if front_end == "image-dense":
        return generator.integers(0, 256, (num, height, width, 1), dtype=np.uint8)
    maps = generator.integers(500, 5000, (num, height, width, 1), dtype=np.uint16)
    maps[generator.random(maps.shape) < 0.2] = 0
    return maps


class Made(NamedTuple):
    front_end: str
    folder: Path
    architecture: str


@pytest.fixture(
    scope="module", params=itertools.product(sorted(KINDS), ARCHITECTURES), ids=lambda pair: "-".join(pair)
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    front_end, architecture = request.param
    folder = tmp_path_factory.mktemp("dense") / front_end
    export_bundle(
        student(front_end, architecture),
        folder,
        spec=spec(front_end, architecture),
        probe_images=inputs(front_end, 6),
        task=TaskMetric(
            name="share", metric=lambda scores: float((scores.argmax(1) == 1).mean()), output="scores"
        ),
        options=Options(profiles=("fp32", "w8")),
    )
    return Made(front_end, folder, architecture)


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (45, 70), (17, 33), (16, 16)])
def test_every_size_gives_logits_of_that_size_as_torch_does(made: Made, size: tuple[int, int]) -> None:
    front_end, folder, architecture = made
    given, told = inputs(front_end, 2, *size), spec(front_end, architecture)
    reference = Deployable(rebuild(student(front_end, architecture), told), told).eval()
    expected = run_torch(reference, given)
    found = Student(folder)(given)
    assert found.scores is not None
    assert expected.scores is not None
    assert found.scores.shape == (2, 3, *size)
    assert np.abs(found.scores - expected.scores).max() < 1e-4
    assert np.abs(found.embedding - expected.embedding).max() < 1e-5
    rounded = Student(folder, profile="w8")(given)
    assert rounded.scores is not None
    assert (rounded.scores.argmax(1) == expected.scores.argmax(1)).mean() > 0.97


def test_the_graph_is_the_student_and_the_head_by_hand(made: Made) -> None:
    front_end, folder, architecture = made
    given = inputs(front_end, 2)
    scaled = depth_input(given) if KINDS[front_end] == 2 else to_input(given, offset=1.0, scale=-0.5)
    head = spec(front_end).head
    assert head is not None
    with torch.no_grad():
        places = torch.nn.functional.normalize(student(front_end, architecture).eval()(scaled), dim=1)
        scores = torch.einsum("bdrq,kd->bkrq", places, torch.from_numpy(head.weight))
        scores = scores + torch.from_numpy(head.bias)[:, None, None]
        large = torch.nn.functional.interpolate(
            scores, size=(SIDE, SIDE), mode="bilinear", align_corners=False
        )
    found = Student(folder)(given).scores
    assert found is not None
    assert np.abs(found - large.numpy()).max() < 1e-4


def test_sizes_are_free_and_every_operator_is_allowed(made: Made) -> None:
    model = gate_file(made.folder / "student.onnx")
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[:3] == ["batch", "height", "width"]
    assert [one.name for one in model.graph.output] == ["embedding", "mask"]
    properties = {entry.key: entry.value for entry in onnx.load(made.folder / "student.onnx").metadata_props}
    assert json.loads(properties["edgecmd.classes"]) == list(NAMES)
    assert json.loads(properties["edgecmd.preprocess"])["resize"] == "none"


def test_the_bundles_own_program_writes_masks(made: Made, tmp_path: Path) -> None:
    front_end, folder, _ = made
    given = inputs(front_end, 1, 45, 70)[0]
    np.save(tmp_path / "one.npy", given)
    words = [sys.executable, "infer.py", ".", str(tmp_path / "one.npy"), "--json", "--check"]
    done = subprocess.run(
        [*words, "--masks", str(tmp_path / "out")], cwd=folder, capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout.splitlines()[-1])
    with Image.open(tmp_path / "out" / "one.mask.png") as picture:
        mask = np.asarray(picture)
    scores = Student(folder)(given[None]).scores
    assert scores is not None
    assert np.array_equal(mask, scores[0].argmax(0))
    assert sum(record["pixels"].values()) == pytest.approx(1.0)
    assert record["resized"] is False


def test_a_page_is_refused(made: Made) -> None:
    if made.front_end != "image-dense":
        return
    with pytest.raises(ExportError, match="--masks"):
        page_info(Student(made.folder / "student.onnx"), gallery=None)


def test_masks_by_hand(tmp_path: Path) -> None:
    logits = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [3.0, 1.0]]], dtype=np.float32)
    mask = mask_of(logits)
    assert mask.tolist() == [[0, 1], [1, 1]]
    assert shares(mask, ("a", "b")) == [("b", 0.75), ("a", 0.25)]
    wide = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5)
    write_mask(tmp_path / "m.png", wide)
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), wide)


def test_the_border_is_continued_to_whole_places() -> None:
    given = torch.arange(17 * 16, dtype=torch.float32).view(1, 1, 17, 16)
    found = continued(given)
    assert found.shape == (1, 1, 32, 16)
    assert torch.equal(found[:, :, :17], given)
    assert torch.equal(found[:, :, 17:], given[:, :, 16:].expand(1, 1, 15, 16))
    assert torch.equal(continued(given[:, :, :16]), given[:, :, :16])


def test_masks_are_refused_where_there_are_none(made: Made, tmp_path: Path) -> None:
    from export.device.infer import main
    from export.device.student import make_prototypes

    device = Student(made.folder)
    prototypes = make_prototypes(device, {"a": list(inputs(made.front_end, 2))})
    assert not device.with_prototypes(prototypes).dense
    np.save(tmp_path / "one.npy", inputs(made.front_end, 1)[0])
    classes = tmp_path / "classes" / "a"
    classes.mkdir(parents=True)
    np.save(classes / "one.npy", inputs(made.front_end, 1)[0])
    words = [str(made.folder), str(tmp_path / "one.npy"), "--masks", str(tmp_path / "m")]
    assert main([*words, "--prototypes", str(tmp_path / "classes")]) == 2


def test_weights_of_another_student_are_refused() -> None:
    whole = build_student("ws-50k", in_channels=1, embedding_dim=DIM, generator=torch_generator(0, "whole"))
    with pytest.raises(ExportError, match="do not fit"):
        rebuild(whole, spec("image-dense"))
