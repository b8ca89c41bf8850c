"""Photographs and sketches: ten owners, privacy for each pair, an audit, and a bundle for a phone.

A pair is a photograph and a sketch of the same thing. The teacher understands photographs; a small student
learns to understand sketches, so that it can run on a device by itself. Pairs stay with their ten owners, who
train together under differential privacy. No labels are needed.

On your own images, with weights that you have (nothing is downloaded)::

    pip install "edgecmd[timm]"
    python examples/photos_to_sketches.py --pairs my-pairs --public photographs --weights mobilenetv3.pth

``my-pairs/source`` holds photographs, and ``my-pairs/target`` sketches with the same names. ``photographs``
holds photographs that anyone may see. To try it first, with images that the script draws::

    python examples/photos_to_sketches.py --made-up 300

That takes about 4 minutes of CPU time (8 minutes of wall time on two busy cores). It shows the way, not how
good a student gets: from random weights, with 300 pairs and four private rounds, it stays at chance.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import edgecmd as ec

NUM_CLIENTS = 10


class Outlines(nn.Module):
    """A teacher: how strong edges of each direction are, in each of 4 x 4 tiles. Put your own in its place.

    Anything from (B, 3, H, W) to (B, D) will do, such as a DINOv2 that you load here.
    """

    def __init__(self, num_directions: int = 8) -> None:
        super().__init__()
        angle = torch.arange(num_directions) * 2 * torch.pi / num_directions
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        kernels = angle.cos()[:, None, None] * across + angle.sin()[:, None, None] * across.T
        self.register_buffer("kernels", kernels[:, None])

    def forward(self, photograph: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 128)."""
        grey = nn.functional.avg_pool2d(photograph.mean(dim=1, keepdim=True), 4)
        edges = nn.functional.conv2d(grey, self.kernels).clamp_min(0)
        return nn.functional.adaptive_avg_pool2d(edges, 4).flatten(1)


def main() -> None:
    """Pairs to a bundle, and one answer of it."""
    given = arguments()
    if given.made_up:
        draw_all(given)

    # Pairs are private. Public photographs are for the teacher and the anchors.
    pairs = ec.Pairs.from_folder(given.pairs, size=given.size)
    public = ec.Images.from_folder(given.public, size=given.size)
    teacher = (
        ec.Teacher(given.teacher, weights=given.teacher_weights)
        if given.teacher
        else ec.Teacher(Outlines(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    )
    task = ec.Task(pairs=pairs, teacher=teacher, public=public)
    student = ec.student(
        given.student,
        dim=task.teacher_dim,
        in_channels=task.in_channels,
        size=task.size,
        weights=given.weights,
    )
    if student.first_weights is not None:
        say(f"first weights: {student.first_weights.sentence()}")
    say(f"{len(pairs)} pairs, {len(public)} public photographs, student {given.student}")

    # Ten owners, and a plan: the least noise that keeps the whole run within epsilon.
    by = "owner" if pairs.owner else "iid"
    clients = ec.partition(pairs, num_clients=NUM_CLIENTS, by=by)
    plan = ec.PrivacyPlan.calibrate(
        mechanism="anchors",
        epsilon=given.epsilon,
        delta=1e-5,
        rounds=given.rounds,
        local_steps=1,
        batch_size=max(1, len(pairs) // NUM_CLIENTS // 2),
        sampling_rate=0.5,
    )
    private = ec.federate(
        task,
        student,
        clients=clients,
        privacy=plan,
        learning_rate=1e-3,
        num_anchors=256,
        out=given.out / "run",
        progress=lambda done, among, _: say(f"round {done} of {among}"),
    )
    print(private.statement)

    # Does the code keep what the plan promises? A contradiction stops the script.
    print(ec.audit(private, levels=given.audit).raise_if_contradicted())
    say("audited")

    # Labelled sketches, which belong to no owner, measure the student and train a classifier. Without them
    # the file is only an encoder.
    labelled = ec.Labelled.from_folder(given.labelled, size=given.size) if given.labelled else None
    if labelled is not None:
        print(private.evaluate(labelled))
    bundle = ec.export(private, given.out / "bundle", profiles=["w8", "fp32"], labelled=labelled)
    say(f"bundle in {given.out / 'bundle'}")

    # What a device does with it: which public photographs look like this sketch?
    sketches = pairs.target[:3]
    found = bundle.embed(sketches) @ teacher.embed(public.images).T
    for row, nearest in enumerate(np.argsort(-found, axis=1)[:, :3]):
        print(
            f"sketch {pairs.ids[row]}: nearest photographs {', '.join(public.keys[one] for one in nearest)}"
        )
    if labelled is not None:
        print(f"their kinds: {', '.join(bundle.classify(sketches))}")
    say("done")


def arguments() -> argparse.Namespace:
    """What was asked for; made-up pictures lie below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=Path, help="folder with source/ and target/")
    parser.add_argument("--public", type=Path, help="folder of photographs that anyone may see")
    parser.add_argument("--labelled", type=Path, help="folder with a folder of sketches for each kind")
    parser.add_argument("--made-up", type=int, default=0, metavar="N", help="draw N pairs, and the others")
    parser.add_argument("--out", type=Path, default=Path("photos-to-sketches"), help="what is made goes here")
    parser.add_argument("--student", default="timm:mobilenetv3_small_100")
    parser.add_argument("--weights", type=Path, help="first weights of the student (.safetensors, .pth)")
    parser.add_argument("--teacher", help="timm:NAME, onnx:FILE, imagenet; by default the class above")
    parser.add_argument("--teacher-weights", type=Path, help="weights of a teacher of timm")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--audit", nargs="+", default=["static"], metavar="LEVEL")
    given = parser.parse_args()
    if given.made_up:
        given.pairs, given.public, given.labelled = (
            given.out / name for name in ("pairs", "public", "labelled")
        )
    elif given.pairs is None or given.public is None:
        parser.error("give --pairs and --public, or --made-up 300 to draw some")
    return given


START = time.monotonic()


def say(text: str) -> None:
    """Print it beside the seconds since the start."""
    print(f"{time.monotonic() - START:5.0f} s  {text}", flush=True)


# ---- pictures to try it on

# Corners of each kind, on a circle: how many, and how far each other one is from the middle.
KINDS = {"triangle": (3, 1.0), "square": (4, 1.0), "star": (10, 0.4), "cross": (8, 0.5), "disc": (40, 1.0)}


def draw_all(given: argparse.Namespace) -> None:
    """Pairs of ten owners, public photographs, and sketches of each kind."""
    draw, names = np.random.default_rng(0), list(KINDS)
    owners = ["id,owner"]
    for row in range(given.made_up):
        photograph, sketch = pair(names[row % len(names)], given.size, draw)
        save(photograph, given.pairs / "source" / f"{row:05d}.jpg")
        save(sketch, given.pairs / "target" / f"{row:05d}.png")
        owners.append(f"{row:05d},owner-{row * NUM_CLIENTS // given.made_up}")
    (given.pairs / "pairs.csv").write_text("\n".join(owners) + "\n")
    for row in range(100):
        kind = names[row % len(names)]
        save(pair(kind, given.size, draw)[0], given.public / f"{kind}-{row:02d}.jpg")
        save(pair(kind, given.size, draw)[1], given.labelled / kind / f"{row:02d}.png")
    say(f"drew {given.made_up} pairs")


def pair(kind: str, size: int, draw: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A photograph of a thing of some kind, and a sketch of the same."""
    num, inner = KINDS[kind]
    angle = 2 * np.pi * np.arange(num) / num + draw.uniform(0, 2 * np.pi)
    radius = size * draw.uniform(0.2, 0.38) * np.where(np.arange(num) % 2, inner, 1.0)
    middle = size * draw.uniform(0.42, 0.58, 2)
    outline = [(middle[0] + r * np.cos(a), middle[1] + r * np.sin(a)) for r, a in zip(radius, angle)]
    light = np.linspace(draw.integers(120, 250, 3), draw.integers(120, 250, 3), size)
    ground = light[:, None] + draw.normal(0, 6, (size, size, 3))
    photograph = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(photograph).polygon(outline, fill=tuple(int(one) for one in draw.integers(0, 110, 3)))
    sketch = Image.new("L", (size, size), 255)
    shaky = [(x + draw.normal(0, size / 150), y + draw.normal(0, size / 150)) for x, y in outline]
    ImageDraw.Draw(sketch).line([*shaky, shaky[0]], fill=0, width=max(1, size // 60), joint="curve")
    return photograph, sketch


def save(picture: Image.Image, path: Path) -> None:
    """Write it, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


if __name__ == "__main__":
    try:
        main()
    except ec.EdgecmdError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
