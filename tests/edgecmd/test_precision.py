"""bf16 in training: what is rounded, what is not, and where it is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgecmd as ec
from edgecmd.config.assemble import Assembly, comparable
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.run_plan import precision_rows
from edgecmd.losses import loss_of
from edgecmd.models import devices
from edgecmd.models.devices import SLOW_BF16, forward, has_bf16
from edgecmd.models.students import Student, build_student
from edgecmd.settings import DistillConfig
from edgecmd.training import optimise
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer
from tests.command_line import run

DIM = 8
STUDENTS = {
    "ws-50k": (1, 16, 16),
    "gn-50k": (2, 16, 16),
    "audio-50k": (1, 1, 4000),
    "seg-50k": (1, 16, 16),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student_of(name: str) -> Student:
    coins = torch.Generator().manual_seed(0)
    return build_student(name, in_channels=STUDENTS[name][0], embedding_dim=DIM, generator=coins)


def test_a_layer_computes_with_numbers_of_8_bits_by_hand() -> None:
    """Inputs and weights rounded to bfloat16, products added up exactly, and the result rounded again."""
    layer, image = nn.Linear(5, 3, bias=False), drawn(4, 5)
    with torch.no_grad():
        layer.weight.copy_(drawn(3, 5, seed=1))
    exact = image.bfloat16().double() @ layer.weight.detach().bfloat16().double().T
    found = forward(layer, image, "bf16").detach()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.bfloat16().float(), rtol=2**-8, atol=2**-12)
    assert torch.equal(found, found.bfloat16().float())
    assert not torch.equal(found, forward(layer, image, "float32").detach())


@pytest.mark.parametrize("name", STUDENTS)
def test_every_kind_of_student_comes_near_its_float32_gradient(name: str) -> None:
    """Not nearer: rounded to 8 bits, several places share a maximum, and with it the gradient."""
    student, gradients = student_of(name), []
    for precision in ("float32", "bf16"):
        found = forward(student, drawn(6, *STUDENTS[name]), precision)
        assert found.dtype == torch.float32
        student.zero_grad()
        (found * drawn(*found.shape, seed=1)).sum().backward()
        own = [one.grad for one in student.parameters() if one.grad is not None]
        assert {one.dtype for one in own} == {torch.float32}
        gradients.append(torch.cat([one.flatten() for one in own]))
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.95
    assert not torch.equal(*gradients)


def test_the_spectrum_of_a_recording_is_not_rounded() -> None:
    """Samples of 8 bits have a noise 50 dB below the loudest, which would hide what is softer."""
    front, wave = student_of("audio-50k").front, drawn(2, 1, 1, 4000)
    assert torch.equal(forward(front, wave, "bf16"), forward(front, wave, "float32"))


@pytest.mark.parametrize("loss", ["cmc", "simclr"])
def test_loss_weights_and_optimizer_stay_float32(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    whole = optimise.added

    def added(total: float, losses: list[Tensor]) -> float:
        seen.extend(losses)
        return whole(total, losses)

    monkeypatch.setattr(optimise, "added", added)
    student, config = student_of("ws-50k"), DistillConfig(loss=loss, batch_size=4, precision="bf16")
    optimizer = make_optimizer(student, config)
    distil(
        student,
        LocalData(target=drawn(6, 1, 16, 16), teacher=drawn(6, DIM, seed=1)),
        drawn(5, DIM, seed=2),
        config,
        loss=loss_of(config),
        num_steps=2,
        place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=2),
        optimizer=optimizer,
    )
    state = [value for one in optimizer.state.values() for value in one.values()]
    assert len(seen) == 2
    assert {one.dtype for one in (*seen, *student.state_dict().values(), *state)} == {torch.float32}


OTHER = """
import torch
from edgecmd.models.devices import forward
from edgecmd.models.students import build_student
coins = torch.Generator().manual_seed(0)
student = build_student("ws-50k", in_channels=1, embedding_dim=8, generator=coins)
image = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
print(forward(student, image, "bf16").tolist())
"""


def test_a_processor_without_instructions_for_it_gives_the_same() -> None:
    """Within the rounding of its sums: the libraries are told that they run on an older processor."""
    older = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    told = subprocess.run(
        [sys.executable, "-c", OTHER], env=older, capture_output=True, text=True, check=True
    )
    here = forward(student_of("ws-50k"), drawn(3, 1, 16, 16), "bf16").detach()
    there = torch.tensor(json.loads(told.stdout))
    assert float((here - there).norm() / here.norm()) < 2**-6


@pytest.mark.parametrize("name", ["half", "BF16", "float16"])
def test_another_precision_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"distill\.precision=.* is unknown\. Allowed: float32, bf16\."):
        load_config(None, [f"distill.precision={name}"])


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
def test_a_guarantee_per_pair_is_of_float32_alone(mechanism: str) -> None:
    words = ["distill.precision=bf16", f"privacy.mechanism={mechanism}"]
    with pytest.raises(ConfigError, match=r"precision='bf16' and privacy\.mechanism=.*=float32\."):
        load_config(None, words)


def test_a_guarantee_per_client_takes_bf16() -> None:
    """Its clip is of the whole update, which the server measures in float64."""
    assert load_config(None, ["distill.precision=bf16", "privacy.mechanism=client"])


def test_a_run_is_not_continued_in_another_precision() -> None:
    assert comparable(RunConfig()) != comparable(load_config(None, ["distill.precision=bf16"]))


def test_the_plan_tells_of_bf16_and_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rounded = (
        Assembly().run(load_config(None, ["device=cpu", f"distill.precision={name}"]))
        for name in ("float32", "bf16")
    )
    assert precision_rows(plain) == []
    told = {}
    for units in ({"avx512_bf16": True}, {"avx2": True}):
        monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda units=units: units, raising=False)
        told[has_bf16(torch.device("cpu"))] = precision_rows(rounded)
    assert told == {True: [["precision", "bf16"]], False: [["precision", f"bf16: {SLOW_BF16}"]]}


def test_the_library_trains_in_bf16() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    task = ec.Task(
        pairs=ec.Pairs(source=images, target=images[..., :1]),
        teacher=nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        public=ec.Images(images=images[::-1]),
    )
    plain, rounded = (
        ec.distill(task, "ws-50k", steps=2, batch_size=4, precision=name) for name in ("float32", "bf16")
    )
    pairs = zip(plain.student.state_dict().values(), rounded.student.state_dict().values(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)
    with pytest.raises(ConfigError, match="Allowed: float32, bf16"):
        ec.distill(task, "ws-50k", steps=2, precision="half")


def test_bench_gpu_says_that_there_is_none_and_measures_the_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch, "bench", "gpu") == 2
    assert "no GPU to measure" in capsys.readouterr().err
    assert run(monkeypatch, "bench", "gpu", "--device", "tpu") == 2
    assert "Allowed: cuda, cpu" in capsys.readouterr().err
    assert run(monkeypatch, "bench", "gpu", "--device", "cpu", "--repeats", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [
        *("bare loop", "distillation", "bare loop, bf16", "distillation, bf16"),
        *("private step", "teacher features"),
    ]
    assert {row.get("against") for row in rows.values()} == {None, "bare loop", "distillation"}
    assert rows["private step"]["against"] == rows["distillation, bf16"]["against"] == "distillation"
    assert all(row["per_s_min"] <= row["per_s_median"] <= row["per_s_max"] for row in rows.values())
    assert set(found["waits"].values()) == {None}
