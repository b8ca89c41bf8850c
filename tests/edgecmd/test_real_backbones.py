"""Networks of timm and torchvision as they are: made, folded, trained with a guarantee, exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.files import read_json
from edgecmd.models.any_student import student
from edgecmd.models.backbones import build_backbone
from edgecmd.models.students import Student
from edgecmd.privacy.step.purity import require_pure
from edgecmd.settings import PrivacyConfig, StudentConfig
from tests.tiny_federation import run_of, simulate, task_of

pytestmark = [
    pytest.mark.slow,
    # What the libraries say about themselves is theirs.
    pytest.mark.filterwarnings("ignore"),
]
pytest.importorskip("timm", exc_type=ImportError)
pytest.importorskip("torchvision", exc_type=ImportError)

NAME, SIDE, DIM = "timm:mobilenetv3_small_100", 64, 16
NETWORKS = {
    NAME: 1024,
    "timm:resnet18": 512,
    "timm:efficientnet_b0": 1280,
    "timm:convnext_atto": 320,
    "timm:vit_tiny_patch16_224": 192,
    "torchvision:mobilenet_v3_small": 1024,
    "torchvision:squeezenet1_1": 512,
    "torchvision:shufflenet_v2_x0_5": 1024,
    "torchvision:googlenet": 1024,
}


def images(num: int = 3) -> torch.Tensor:
    return torch.rand(num, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for RGB whose statistics fit their activations, as those of a trained network do."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        network = build_backbone("student.architecture", NAME).train()
        with torch.no_grad():
            for _ in range(8):
                network(torch.rand(32, 3, SIDE, SIDE))
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_made_and_keeps_pairs_apart(name: str) -> None:
    made = student(name, dim=DIM, in_channels=1, size=SIDE)
    assert made.projector.in_features == NETWORKS[name]
    require_pure(made, in_channels=1, image_size=SIDE)


@pytest.mark.parametrize(
    "name", [NAME, "timm:resnet18", "torchvision:mobilenet_v3_small", "torchvision:densenet121"]
)
def test_folding_keeps_the_answer(name: str) -> None:
    kept, folded = (
        student(name, dim=DIM, in_channels=1, size=SIDE, batch_norm=how).eval() for how in ("keep", "fold")
    )
    torch.testing.assert_close(folded(images()), kept(images()), rtol=1e-3, atol=1e-6)
    left = sum(isinstance(one, nn.BatchNorm2d) for one in folded.modules())
    # Of densenet121, half of the normalisations stand before a convolution.
    assert left == (62 if "densenet" in name else 0)


def test_first_weights_fit(weights: Path) -> None:
    made = student(NAME, dim=DIM, in_channels=1, size=SIDE, weights=weights)
    assert made.first_weights is not None
    assert made.first_weights.sentence() == "208 of 208 tensors matched"
    assert made.batch_norm == "freeze"


@pytest.mark.parametrize("how", ["freeze", "group"])
def test_it_is_trained_with_a_guarantee_per_pair(how: str, tiny: RunConfig, weights: Path) -> None:
    config = replace(
        tiny,
        student=StudentConfig(architecture=NAME, weights=str(weights), batch_norm=how),
        privacy=PrivacyConfig(mechanism="anchors", epsilon=8.0, delta=1e-5, sampling_rate=0.5),
        federation=replace(tiny.federation, num_rounds=1, local_steps=1),
        distill=replace(tiny.distill, loss="auto", batch_size=2),
    )
    simulate(config)
    assert 0 < read_json(Path(config.out) / config.name / "privacy.json")["epsilon"] <= 8.0


def a_little_trained(how: str, weights: Path) -> Student:
    """Sixty steps towards the teacher of the built-in pictures, 64 px."""
    run = run_of(
        replace(RunConfig(), student=StudentConfig(architecture=NAME, weights=str(weights), batch_norm=how))
    )
    made, data = run.new_student().train(), run.task.local_data(np.arange(512))
    wanted, coins = nn.functional.normalize(data.teacher, dim=1), torch.Generator().manual_seed(7)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3)
    for _ in range(60):
        rows = torch.randint(0, 512, (64,), generator=coins)
        optimizer.zero_grad()
        similarity = nn.functional.normalize(made(data.target[rows]), dim=1) @ wanted[rows].T
        nn.functional.cross_entropy(similarity / 0.1, torch.arange(64)).backward()
        optimizer.step()
    return made.eval()


@pytest.mark.parametrize("how", ["freeze", "fold", "group"])
def test_each_profile_gives_what_the_student_gives(how: str, weights: Path, tmp_path: Path) -> None:
    from edgecmd.evaluation.evaluate import embedder
    from export.from_task import export_student
    from export.loaded import load_bundle

    trained, task = a_little_trained(how, weights), task_of(RunConfig())
    export_student(trained, tmp_path / "bundle", task=task, profiles=["fp32", "w8", "int8"])
    inputs = task.data.test.pairs.target[:100]
    expected = embedder(trained, task)(inputs)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    cosine = {
        profile: (load_bundle(tmp_path / "bundle", profile=profile).embed(inputs) * expected).sum(axis=1)
        for profile in ("fp32", "w8", "int8")
    }
    assert float(cosine["fp32"].min()) >= 0.99999
    assert float(cosine["w8"].min()) >= 0.9995
    # The export refuses one below 0.9 on its own inputs; a picture with a faint embedding may lie lower.
    assert float(cosine["int8"].mean()) >= 0.98
