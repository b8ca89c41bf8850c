"""A device made up in a folder: pairs, public pictures, a state, and a secret that no server may name."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from PIL import Image

from clients.app import app
from clients.check import check_node
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.training.averaging import to_arrays
from server.local_grid import set_identity
from server.strategies import to_record
from tests.tiny_federation import contexts

SIDE = 16
TOKEN = "0123456789abcdef"
RUN = (
    f"data.image_size={SIDE}",
    "data.strict=false",
    'student.architecture="ws-50k"',
    'device="cpu"',
    "distill.batch_size=8",
    "distill.num_anchors=8",
    "federation.num_clients=4",
    "federation.num_rounds=3",
    "federation.local_steps=2",
    "privacy.mechanism=anchors",
    "privacy.noise_multiplier=2",
    "privacy.epsilon=500",
)


def picture(seed: int, *, colour: bool) -> Image.Image:
    shape = (SIDE, SIDE, 3) if colour else (SIDE, SIDE)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_pairs(folder: Path, rows: range | list[int], *, colour: bool = False) -> Path:
    """A folder of pairs; a pair's content follows from its number."""
    for half in ("source", "target"):
        (folder / half).mkdir(parents=True, exist_ok=True)
    for row in rows:
        picture(2 * row, colour=True).save(folder / "source" / f"p{row:03d}.png")
        picture(2 * row + 1, colour=colour).save(folder / "target" / f"p{row:03d}.png")
    return folder


def write_public(folder: Path, num: int = 12) -> Path:
    folder.mkdir(parents=True)
    for row in range(num):
        picture(10_000 + row, colour=True).save(folder / f"public{row:03d}.png")
    return folder


@dataclass(frozen=True)
class Device:
    """A device's folders, and its owner's config."""

    root: Path
    pairs: Path

    @property
    def node(self) -> dict[str, object]:
        return {
            "data-dir": str(self.pairs),
            "state-dir": str(self.root / "state"),
            "public-dir": str(self.root / "public"),
        }

    def begin(self, **node: object) -> None:
        """What the owner does once: begin the ledger."""
        check_node(self.node | named(node), run_config(), new_ledger=True)


def named(node: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in node.items()}


def make_device(root: Path, *, rows: range | list[int] = range(10), colour: bool = False) -> Device:
    """A device with pairs and public pictures; its ledger is not begun yet."""
    device = Device(root=root, pairs=write_pairs(root / "pairs", rows, colour=colour))
    write_public(root / "public")
    return device


def run_config(*changes: str) -> RunConfig:
    """Settings of a private run as a server writes them: no file is named."""
    return load_config(None, [*RUN, *changes])


def weights_for(config: RunConfig, *, channels: int = 1, dim: int = 128) -> RecordDict:
    """First weights of the run's student, made without any data set."""
    import torch

    from edgecmd.models.students import build_student

    student = build_student(
        config.student.architecture,
        in_channels=channels,
        embedding_dim=dim,
        generator=torch.Generator().manual_seed(0),
        batch_norm=config.student.batch_norm,
    )
    return to_record(to_arrays(student))


def ask(
    config: RunConfig,
    node: dict[str, object],
    *,
    round_index: int = 1,
    channels: int = 1,
    dim: int = 128,
    sent: dict[str, object] | None = None,
    raw: dict[str, object] | None = None,
) -> Message:
    """Ask a device as a SuperNode would: the run config from the server, the node config from the owner."""
    set_identity()
    context: Context = contexts(config)[101]
    context.node_config.clear()
    context.node_config.update(node)  # type: ignore[arg-type]
    context.run_config.update(raw or {})  # type: ignore[arg-type]
    record = ConfigRecord({"server-round": round_index, "run": TOKEN, **(sent or {})})  # type: ignore[dict-item]
    content = RecordDict({"arrays": weights_for(config, channels=channels, dim=dim), "config": record})
    return app(message=Message(content, 101, "train"), context=context)


_opened: list[str] | None = None


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir") and args:
        name = args[0]
        if isinstance(name, str | bytes | os.PathLike):
            _opened.append(os.path.realpath(os.fsdecode(name)))


# An audit hook cannot be taken away again; it does nothing outside of `opened_files`.
sys.addaudithook(_hook)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Every file and folder that this process opens or lists inside the block, in order."""
    global _opened
    found: list[str] = []
    _opened = found
    try:
        yield found
    finally:
        _opened = None
