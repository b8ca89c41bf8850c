"""What leaves a client: names and numbers are listed, so that nothing joins them unnoticed."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import app
from edgecmd.data.pairs import PairedData
from edgecmd.data.user_files.device_pairs import read_device_pairs
from edgecmd.models.students import build_student
from edgecmd.training.averaging import to_arrays
from edgecmd.training.distill import LocalData
from edgecmd.training.task import Holding
from server.local_grid import set_identity
from server.strategies import to_record
from tests.tiny_federation import contexts, run_of, task_of, tiny_config

CLIENT = 2
# Shorter pieces than this occur in weights by chance.
PIECE_BYTES = 16


@pytest.fixture(scope="module", params=["true", "false"])
def reply(request: pytest.FixtureRequest, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Message:
    config = tiny_config(pairs, tmp_path_factory.mktemp("out"), f"distill.keep_optimizer={request.param}")
    set_identity()
    sent = ConfigRecord({"server-round": 1, "run": "0" * 16})
    content = RecordDict({"arrays": to_record(to_arrays(run_of(config).new_student())), "config": sent})
    context = contexts(config)[100 + CLIENT]
    answer = app(message=Message(content, 100 + CLIENT, "train"), context=context)
    assert dict(context.state) == {}
    return answer


def test_a_reply_holds_the_student_and_three_numbers(reply: Message, pairs: Path, tmp_path: Path) -> None:
    assert list(reply.content) == ["arrays", "metrics"]
    student = run_of(tiny_config(pairs, tmp_path)).new_student()
    assert set(reply.content.array_records["arrays"]) == set(student.state_dict())
    metrics = reply.content.metric_records["metrics"]
    assert {name: type(value) for name, value in metrics.items()} == {
        "num-examples": int,
        "loss": float,
        "client": int,
    }
    assert len(reply.content.config_records) == 0


def test_every_array_is_a_parameter_and_none_is_a_statistic_of_the_pairs() -> None:
    """A student has no buffers: running means of batch normalisation would be statistics of the data."""
    import torch

    for architecture in ("ws-50k", "gn-50k"):
        student = build_student(
            architecture, in_channels=1, embedding_dim=8, generator=torch.Generator().manual_seed(0)
        )
        assert set(student.state_dict()) == {name for name, _ in student.named_parameters()}


def sent_bytes(reply: Message) -> Iterator[tuple[str, bytes]]:
    """Every byte of a reply, by where it is."""
    for name, array in reply.content.array_records["arrays"].items():
        yield f"arrays/{name}", array.data + array.dtype.encode() + array.stype.encode()
    for name, value in reply.content.metric_records["metrics"].items():
        yield f"metrics/{name}", repr(value).encode()
    yield "metadata", repr(vars(reply.metadata)).encode()


def pieces(values: np.ndarray) -> set[bytes]:
    """Every run of `PIECE_BYTES` bytes of each row, at every offset."""
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(rows, PIECE_BYTES, axis=1)
    return {window.tobytes() for window in windows.reshape(-1, PIECE_BYTES)}


def test_no_piece_of_a_picture_or_of_a_teacher_feature_is_in_the_bytes(
    reply: Message, pairs: Path, tmp_path: Path
) -> None:
    config = tiny_config(pairs, tmp_path)
    data, _ = task_of(config).training_pairs(run_of(config).part(CLIENT))
    holding = run_of(config).holding(CLIENT)
    private = {
        "source": data.source,
        "target": data.target,
        "scaled target": holding.data.target.contiguous().numpy(),
        "teacher feature": holding.data.teacher.numpy(),
    }
    forbidden = {name: pieces(values) for name, values in private.items()}
    for place, content in sent_bytes(reply):
        sent = {content[start : start + PIECE_BYTES] for start in range(len(content) - PIECE_BYTES + 1)}
        for name, known in forbidden.items():
            assert not sent & known, f"{place} holds a piece of {name}"


def test_the_search_would_find_a_picture(pairs: Path, tmp_path: Path) -> None:
    run = run_of(tiny_config(pairs, tmp_path))
    data, _ = run.task.training_pairs(run.part(CLIENT))
    content = b"x" * 5 + data.target[3].tobytes() + b"y" * 7
    sent = {content[start : start + PIECE_BYTES] for start in range(len(content) - PIECE_BYTES + 1)}
    assert sent & pieces(data.target)


def test_no_type_that_a_client_holds_has_a_field_for_labels() -> None:
    assert [one.name for one in fields(PairedData)] == ["source", "target"]
    assert [one.name for one in fields(LocalData)] == ["target", "teacher", "modality"]
    assert [one.name for one in fields(Holding)] == ["data", "anchors"]


def test_labels_of_a_device_s_own_pairs_are_not_read(pairs: Path, tmp_path: Path) -> None:
    """The .npz has labels; the same pairs without them are the same to a device."""
    with np.load(pairs) as archive:
        kept = {name: archive[name] for name in ("source", "target")}
        assert "label" in archive.files
    np.savez(tmp_path / "bare.npz", **kept)
    config = tiny_config(pairs, tmp_path).data
    labelled, bare = (read_device_pairs(path, config, kind="grey") for path in (pairs, tmp_path / "bare.npz"))
    assert (labelled.digests, labelled.skipped) == (bare.digests, ())
    np.testing.assert_array_equal(labelled.data.target, bare.data.target)
    assert [one.name for one in fields(labelled)] == ["data", "digests", "present", "skipped"]


def test_anchors_are_public_features_alone(pairs: Path, tmp_path: Path) -> None:
    """Two clients with other pairs hold the same anchors."""
    config = tiny_config(pairs, tmp_path)
    first, second = (run_of(config).holding(client) for client in (0, 1))
    np.testing.assert_array_equal(first.anchors.numpy(), second.anchors.numpy())
    assert len(first.anchors) == 16
