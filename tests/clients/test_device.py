"""A device with pairs of its own: what a server may name there (nothing), and what one pair decides."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clients import device as device_round
from clients import private
from clients.check import check_node
from clients.node import read_node
from clients.order import Order, device_config
from edgecmd import __version__
from edgecmd.audits.static.search import distance
from edgecmd.config.file_settings import FILE_SETTINGS
from edgecmd.config.reader import flatten, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.data.anchors import ANCHORS
from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.privacy.device_ledger import DeviceLedgers
from edgecmd.privacy.refusals import explained
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
from edgecmd.settings import TeacherConfig
from edgecmd.training.device_task import device_features, device_sources
from tests.device_files import (
    Device,
    ask,
    make_device,
    opened_files,
    run_config,
    weights_for,
    write_pairs,
)
from tests.teacher_files import onnx_file
from tests.tiny_federation import task_of

STRINGS = sorted(name for name, value in flatten(RunConfig()).items() if isinstance(value, str))


def reason(reply: Message) -> str:
    assert reply.has_error()
    return str(reply.error.reason)


def bytes_of(reply: Message) -> dict[str, bytes]:
    assert not reply.has_error(), reply.error.reason
    return {name: array.data for name, array in reply.content.array_records["arrays"].items()}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    made = make_device(tmp_path / "node")
    made.begin()
    return made


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same coins and noise at every answer, so that answers can be compared to the byte."""
    monkeypatch.setattr(private, "make_source", lambda **_: DeterministicSource(7))


def test_a_device_answers_a_run_that_names_no_file(device: Device) -> None:
    reply = ask(run_config(), device.node)
    assert not reply.has_error(), reply.error.reason
    assert set(reply.content.metric_records["metrics"]) == {"client"}


@pytest.mark.parametrize("name", sorted(FILE_SETTINGS))
def test_every_setting_that_names_a_file_is_refused_by_name(name: str, device: Device) -> None:
    other = {"teacher.pair_features": "teacher.public_features"}
    other |= {two: one for one, two in other.items()}
    numbers = {"teacher.size": 32, "teacher.mean": "0.5,0.5,0.5", "teacher.std": "0.5,0.5,0.5"}
    numbers |= {"teacher.crop": 0.5, "teacher.pca_dim": 8, "teacher.pca_power": 0.5}
    raw: dict[str, object] = {name: numbers.get(name, str(device.pairs))}
    if name == "teacher.pca_power":
        raw["teacher.pca_dim"] = 8
    if name in other:
        raw[other[name]] = str(device.pairs)
    with opened_files() as opened:
        said = reason(ask(run_config(), device.node, raw=raw))
    assert said == f"refused: names-a-file ({', '.join(sorted(raw))})"
    assert not [one for one in opened if one.startswith(str(device.root))]


OWN_LOSS = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
from edgecmd.losses import CMCAnchored
class Mine(CMCAnchored):
    pass
"""


def test_a_server_names_no_code_unless_the_owner_allows_its_module(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device.root / "code").mkdir()
    module = device.root / "code" / "own_on_device.py"
    module.write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(str(module.parent))
    raw, imported = {"distill.loss": "own_on_device:Mine"}, module.with_suffix(".imported")
    for allowed in ({}, {"modules": "own_on"}, {"modules": "own_on_device.more, os"}):
        said = reason(ask(run_config(), device.node | allowed, raw=raw))
        assert said == "refused: names-code (distill.loss)"
    assert "only its owner allows modules" in explained(said)
    assert not imported.exists()
    reply = ask(run_config(), device.node | {"modules": "json, own_on_device"}, raw=raw)
    assert not reply.has_error(), reply.error.reason
    assert set(reply.content.metric_records["metrics"]) == {"client"}
    assert imported.exists()


def test_a_server_names_a_library_s_network_only_where_the_owner_allows_it(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "made_up_libraries"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    config = run_config("student.architecture=timm:tiny_net")
    other = run_config()
    for allowed in ({}, {"modules": "torchvision, timm_more"}):
        said = reason(ask(other, device.node | allowed, raw={"student.architecture": "timm:tiny_net"}))
        assert said == "refused: names-code (student.architecture)"
    assert "timm" not in sys.modules
    node = device.node | {"modules": "timm"}
    reply = ask(config, node)
    assert not reply.has_error(), reply.error.reason
    names = set(reply.content.array_records["arrays"])
    assert not any("running" in name for name in names)
    said = reason(ask(config, node, raw={"student.architecture": "json:loads"}, round_index=2))
    assert said == "refused: names-code (student.architecture)"
    sys.modules.pop("timm")


def test_a_device_reads_no_first_weights_and_is_told_what_auto_stands_for(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "made_up_libraries"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    frozen = run_config("student.architecture=timm:tiny_net", "student.batch_norm=freeze")
    secret = device.root / "secret.pth"
    secret.write_bytes(b"x")
    told: dict[str, object] = {"student.batch_norm": "auto", "student.weights": str(secret)}
    with opened_files() as opened:
        reply = ask(frozen, device.node | {"modules": "timm"}, raw=told, sent={"batch-norm": "freeze"})
    assert not reply.has_error(), reply.error.reason
    arrays = reply.content.array_records["arrays"]
    assert np.array_equal(arrays["backbone.pre.running_mean"].numpy(), np.zeros(8))
    assert str(secret.resolve()) not in opened
    taken = device_config({**flatten(frozen), **told}, ("timm",)).student
    assert (taken.weights, taken.path) == ("", "")
    sys.modules.pop("timm")


@pytest.mark.parametrize("mechanism", ["anchors", "client"])
def test_a_device_trains_the_part_that_the_run_says(mechanism: str, device: Device) -> None:
    config = run_config(
        "student.architecture=lite0-s", "student.trainable=last", f"privacy.mechanism={mechanism}"
    )
    before, found = weights_for(config).to_numpy_ndarrays(), ask(config, device.node)
    assert not found.has_error(), found.error.reason
    after = found.content.array_records["arrays"].to_numpy_ndarrays()
    moved = {
        name
        for name, one, other in zip(found.content.array_records["arrays"], before, after, strict=True)
        if not np.array_equal(one, other)
    }
    # Each weight of the block takes noise, or a gradient.
    assert {name.rpartition(".")[0] for name in moved} == {
        *(f"trunk.stages.4.2.{one}" for one in ("expand", "depthwise", "project")),
        "projector",
    }


def places(device: Device) -> list[str]:
    """What a server might name: the pairs, halves of them, other files of the device."""
    secret = device.root / "secret"
    write_pairs(secret, range(3))
    (secret / "teacher.safetensors").write_bytes(b"x")
    (secret / "run.toml").write_text("seed = 1\n")
    inside = [
        device.pairs,
        device.pairs / "target",
        device.pairs / "target" / "p001.png",
        device.root / "state",
    ]
    every = [*inside, secret, secret / "teacher.safetensors", secret / "run.toml", Path("/etc/passwd")]
    return [*map(str, every), f"../../..{secret}", f"{secret}/../pairs", ""]


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, Device]:
    """Two devices, of which one has a pair more."""
    root = tmp_path_factory.mktemp("neighbours")
    smaller, larger = (make_device(root / str(num), rows=range(num)) for num in (12, 13))
    smaller.begin()
    larger.begin()
    return smaller, larger


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_a_server_writes_it_opens_no_file_and_one_pair_counts_once(
    data: st.DataObject, neighbours: tuple[Device, Device]
) -> None:
    """Any string of the run set to a path of the node; pairs are opened only after the anchors are fixed."""
    smaller, larger = neighbours
    names = data.draw(st.lists(st.sampled_from(STRINGS), max_size=3, unique=True))
    raw: dict[str, object] = {name: data.draw(st.sampled_from(places(smaller))) for name in names}
    raw["distill.num_anchors"] = data.draw(st.integers(1, 64))
    raw["distill.anchors"] = raw.get("distill.anchors") or data.draw(
        st.sampled_from(["public", "random", "procedural"])
    )
    raw["seed"] = data.draw(st.integers(0, 2**31 - 1))
    sent: dict[str, object] = {}
    if data.draw(st.booleans()):
        sent["target-kind"] = data.draw(st.sampled_from([*places(smaller), "rgb", "grey"]))
    with opened_files() as opened:
        assert str(smaller.root) not in outcome(raw, sent, smaller)
    mine = [one for one in opened if one.startswith(str(smaller.root.parent)) or one == "/etc/passwd"]
    pairs, state, public = (str(smaller.root / name) for name in ("pairs", "state", "public"))
    assert [one for one in mine if not one.startswith((pairs, state, public))] == []
    private_ones = [index for index, one in enumerate(mine) if one.startswith(pairs)]
    public_ones = [index for index, one in enumerate(mine) if one.startswith(public)]
    if private_ones:
        assert public_ones
        assert max(public_ones) < min(private_ones)
    try:
        device_config({**flatten(run_config()), **raw})
    except ValueError:
        return
    if raw["distill.anchors"] in ANCHORS and raw.get("device", "cpu") == "cpu":
        try:
            less, one = sums(smaller, raw)
        except (ConfigError, PrivacyError):
            # A word that means nothing: refused before a pair is read, on either device.
            with pytest.raises((ConfigError, PrivacyError)):
                sums(larger, raw)
            return
        more, other = sums(larger, raw)
        assert torch.equal(one, other)
        assert distance(more, less) <= 1.0


def outcome(raw: dict[str, object], sent: dict[str, object], device: Device) -> str:
    """What a server is told."""
    try:
        reply = ask(run_config(), device.node, raw=raw, sent=sent)
    except Exception as error:
        return str(error)
    return str(reply.error.reason) if reply.has_error() else ""


@pytest.mark.parametrize("name", [one for one in STRINGS if one not in FILE_SETTINGS])
def test_a_word_of_the_run_never_reaches_data_or_teacher(name: str, device: Device) -> None:
    """Each other string set to a path: refused as a word, or without any effect on what is read."""
    raw = {**flatten(run_config()), name: str(device.pairs)}
    try:
        config = device_config(raw)
    except ValueError:
        return
    plain = device_config(flatten(run_config()))
    assert (config.data, config.teacher) == (plain.data, plain.teacher) or name == "data.target_kind"


def sums(device: Device, raw: dict[str, object]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Clipped sum of a device's pairs, all of them, by what a round really uses; and its anchors."""
    node = read_node(device.node)
    config = device_config({**flatten(run_config()), **raw})
    order = Order(client=0, round_index=1, token="0" * 16, config=config)
    prepared = device_round.prepare(order, node)
    pairs = device_round.read_pairs(order, node, prepared)
    held = device_round.holding(order, prepared, pairs)
    student = build_student(
        "ws-50k", in_channels=1, embedding_dim=128, generator=torch.Generator().manual_seed(0)
    )
    acting = EffectiveStudent(student)
    acting.refresh()
    chunks = make_units(
        held.data,
        np.arange(len(held.data)),
        config=StepSettings(mechanism="anchors"),
        augment=0.0,
        source=DeterministicSource(0),
    )
    loss = unit_loss(loss_of(config.distill), held.anchors)
    return clipped_sum(acting.module, chunks, loss, clip=1.0, engine="loop"), held.anchors


@pytest.mark.parametrize("num_anchors", [1, 8, 1024])
@pytest.mark.parametrize("kind", ["public", "procedural", "random"])
def test_one_more_pair_moves_the_sum_by_c_and_no_anchor(kind: str, num_anchors: int, tmp_path: Path) -> None:
    """With anchors that a server made of the pairs it was 25.5 C."""
    config = {"distill.num_anchors": num_anchors, "distill.anchors": kind}
    both = [make_device(tmp_path / str(num), rows=range(num)) for num in (40, 41)]
    (larger, one), (smaller, other) = sums(both[1], config), sums(both[0], config)
    assert torch.equal(one, other)
    assert distance(larger, smaller) <= 1.0


def test_the_server_s_teacher_and_public_set_are_compared_by_digest(device: Device) -> None:
    report = check_node(device.node, run_config())
    good = {"teacher-sha256": report.pins["teacher-sha256"], "public-sha256": report.pins["public-sha256"]}
    assert not ask(run_config(), device.node, sent=good).has_error()
    for name in good:
        said = reason(ask(run_config(), device.node, sent={**good, name: "0" * 64}))
        assert said == f"refused: other-anchors ({name})"


def test_another_version_of_edgecmd_is_refused(device: Device) -> None:
    assert not ask(run_config(), device.node, sent={"edgecmd-version": __version__}).has_error()
    said = reason(ask(run_config(), device.node, sent={"edgecmd-version": "0.0.1"}))
    assert said == "refused: other-version (edgecmd-version)"


def test_a_server_tells_what_a_device_without_further_settings_has(device: Device, tmp_path: Path) -> None:
    """The built-in set, its teacher and its public pictures: equal digests, so that the device takes part."""
    told = task_of(run_config("data.name=emoji")).told_to_devices()
    assert told["target-kind"] == "grey"
    node = {name: value for name, value in device.node.items() if name != "public-dir"}
    report = check_node(node, run_config())
    assert {name: report.pins[name] for name in told if name != "target-kind"} == {
        name: value for name, value in told.items() if name != "target-kind"
    }
    assert not ask(run_config(), node, sent=dict(told)).has_error()


def test_pins_of_the_owner(device: Device) -> None:
    report = check_node(device.node, run_config())
    assert set(report.pins) == {"teacher-sha256", "public-sha256", "anchors-sha256", "edgecmd-version"}
    pinned = device.node | report.pins
    assert not ask(run_config(), pinned).has_error()
    # Another seed draws other anchors: the owner pinned these.
    assert reason(ask(run_config("seed=5"), pinned)) == "refused: other-anchors (anchors-sha256)"
    for name in ("teacher-sha256", "public-sha256"):
        assert reason(ask(run_config(), pinned | {name: "0" * 64})) == f"refused: other-anchors ({name})"
    assert (
        reason(ask(run_config(), pinned | {"edgecmd-version": "0.0"}))
        == "refused: other-version (edgecmd-version)"
    )


@pytest.mark.parametrize(
    ("bound", "setting"),
    [
        ({"max-sampling-rate": 0.2}, "privacy.sampling_rate"),
        ({"min-anchors": 9}, "distill.num_anchors"),
        ({"max-anchors": 7}, "distill.num_anchors"),
        ({"max-augment": 0.5}, "distill.augment"),
        ({"min-augment": 1.5}, "distill.augment"),
        ({"max-local-steps": 1}, "federation.local_steps"),
    ],
)
def test_bounds_of_the_owner(bound: dict[str, object], setting: str, device: Device) -> None:
    with opened_files() as opened:
        assert reason(ask(run_config(), device.node | bound)) == f"refused: out-of-bounds ({setting})"
    assert not [one for one in opened if one.startswith(str(device.root))]


def test_a_bound_is_inclusive(device: Device) -> None:
    bounds = {"max-sampling-rate": 0.25, "min-anchors": 8, "max-anchors": 8, "max-augment": 1, "max-views": 1}
    assert not ask(run_config(), device.node | bounds).has_error()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max-epsilom": 3.0},
        {"max-anchors": "nan"},
        {"max-sampling-rate": 2},
        {"partition-id": -1},
        {"partition-id": "one"},
        {"teacher": "icon"},
        {"public-dir": "relative/folder"},
        {"ledger-key": "/nowhere/key"},
        {"data-dir": "/nowhere/pairs"},
        {"data-dir": ""},
        {"data-dir": "", "partition-id": 1},
        {"ledger-key": ""},
        {"state-dir": " "},
        {"teacher-sha256": ""},
        {"modules": ""},
        {"modules": "mine.losses, /srv/code.py"},
        {"modules": "mine,"},
    ],
)
def test_a_wrong_node_config_takes_part_in_nothing(wrong: dict[str, object], device: Device) -> None:
    assert reason(ask(run_config(), device.node | wrong)) == "refused: node-config"


@pytest.mark.parametrize("key", ["public-dir", "state-dir", "ledger-key", "teacher"])
@pytest.mark.parametrize("below", ["", "source", "target", "public"])
def test_nothing_else_is_read_among_the_pairs(key: str, below: str, device: Device) -> None:
    """Public images there would make anchors of the pairs."""
    (device.pairs / below).mkdir(exist_ok=True)
    said = reason(ask(run_config(), device.node | {key: str(device.pairs / below)}))
    assert said == "refused: node-config"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("teacher", "onnx:{pairs}/a.onnx"),
        ("teacher", "icons, onnx:{pairs}/a.onnx"),
        ("teacher-weights", "{root}/a.pth, {pairs}/b.pth"),
    ],
)
def test_no_file_of_a_teacher_lies_among_the_pairs(key: str, value: str, device: Device) -> None:
    text = value.format(pairs=device.pairs, root=device.root)
    with pytest.raises(PrivacyError, match="is inside data-dir"):
        read_node(device.node | {key: text})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"teacher-size": "large"}, "teacher.size='large' is text; expected a whole number"),
        ({"teacher-mean": "0.5,0.5"}, "teacher.mean=.*has 2 numbers. Give three"),
        ({"teacher-crop": 2.0}, "teacher.crop=2.0 is outside"),
        ({"teacher-pca": 3}, "teacher-pca=3, which is unknown.*Did you mean 'teacher-pca-dim'"),
        ({"teacher-weights": " "}, "teacher-weights='', .*|is empty"),
    ],
)
def test_what_an_owner_says_of_the_teacher_is_checked(
    own: dict[str, object], message: str, device: Device
) -> None:
    with pytest.raises(PrivacyError, match=message):
        read_node(device.node | own)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"teacher": "onnx:a.onnx"}, "names the file 'a.onnx'; allowed is an absolute path"),
        ({"teacher": "onnx:/nowhere/a.onnx"}, "names the file '/nowhere/a.onnx'; allowed"),
        ({"teacher": "timm:a", "teacher-weights": "w.pth"}, "names the file 'w.pth'; allowed"),
        ({"teacher": "icons", "teacher-size": 32}, "teacher.size=32 is for networks of your own"),
        ({"teacher": "icons,imagnet"}, "neither one of icons, imagenet, indoor nor an absolute path"),
        ({"teacher": "icons", "teacher-pca-dim": 100}, "teacher.pca_dim=100 needs more than 100 public"),
    ],
)
def test_a_teacher_that_a_device_cannot_make_is_refused_before_a_pair_is_read(
    own: dict[str, object], message: str, device: Device
) -> None:
    with opened_files() as opened, pytest.raises(PrivacyError, match=message):
        check_node(device.node | own, run_config())
    assert not [one for one in opened if one.startswith(str(device.pairs))]


def test_the_teacher_of_a_device_is_its_owner_s_in_every_number(device: Device) -> None:
    """A digest that follows from the owner's settings alone, and pins it; a server has no say."""
    (device.root / "own").mkdir()
    path = onnx_file(device.root / "own" / "means.onnx")
    own: dict[str, object] = {"teacher": f"icons, onnx:{path}", "teacher-pca-dim": 6, "teacher-size": 12}
    own |= {"teacher-mean": "0.5,0.5,0.5", "teacher-std": "0.25,0.25,0.25", "teacher-crop": 0.75}
    first = check_node(device.node | own, run_config()).pins["teacher-sha256"]
    found = {first}
    for key, value in (
        *(("teacher", f"onnx:{path}, icons"), ("teacher-pca-dim", 5), ("teacher-size", 16)),
        *(("teacher-mean", "0.4,0.5,0.5"), ("teacher-std", "0.5,0.25,0.25"), ("teacher-crop", 1.0)),
    ):
        found.add(check_node(device.node | own | {key: value}, run_config()).pins["teacher-sha256"])
    assert len(found) == 7
    pinned = device.node | own | {"teacher-sha256": first}
    plain = run_config("teacher.map_dim=32", "teacher.map_zoom=1")
    assert not ask(plain, pinned, dim=6).has_error()
    for name, value in {"teacher.size": 16, "teacher.pca_dim": 5, "teacher.crop": 1.0}.items():
        said = reason(ask(run_config(), pinned, raw={name: value}, dim=6))
        assert said == f"refused: names-a-file ({name})"


@pytest.mark.parametrize("num", [1, 8, 10])
def test_one_more_pair_moves_no_feature_of_an_owner_s_own_teachers(num: int, tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "means.onnx")
    sources = device_sources(
        device_config(flatten(run_config())).data,
        teacher=TeacherConfig(name=f"icons,onnx:{path}", pca_dim=8),
        public="emoji",
        cache=tmp_path / "cache",
    )
    images = np.random.default_rng(0).integers(0, 256, (num + 1, 16, 16, 3), dtype=np.uint8)
    larger, smaller = (device_features(sources, images[:many]) for many in (num + 1, num))
    np.testing.assert_array_equal(larger[:num], smaller)


def test_a_pair_that_the_teacher_fails_at_decides_nothing_but_its_own_part(
    coins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its feature is no number, its gradient none: whatever it is, the answer is the same to the byte."""
    answers, whole = [], cached_features
    for name, number in (("none", np.nan), ("endless", np.inf), ("same", 0.0)):

        def broken(
            teacher: object, images: np.ndarray, *, number: float = number, **options: object
        ) -> np.ndarray:
            found = whole(teacher, images, **options)  # type: ignore[arg-type]
            if len(images) == 10:
                found[3] += number
            return found

        monkeypatch.setattr("edgecmd.training.device_task.cached_features", broken)
        made = make_device(tmp_path / name)
        made.begin()
        answers.append(bytes_of(ask(run_config("privacy.sampling_rate=1"), made.node)))
    assert answers[0] == answers[1] != answers[2]
    assert all(np.isfinite(np.load(io.BytesIO(one), allow_pickle=False)).all() for one in answers[0].values())


def test_batches_without_coins_are_bounded_by_their_share(device: Device) -> None:
    """At a rate of 0.6 there is one bin: every pair is in every step."""
    bound = device.node | {"max-sampling-rate": 0.6}
    plain = ("privacy.sampling=none", "privacy.epsilon=1000", "privacy.noise_multiplier=5")
    said = reason(ask(run_config("privacy.sampling_rate=0.6", *plain), bound))
    assert said == "refused: out-of-bounds (privacy.sampling_rate)"
    assert not ask(run_config("privacy.sampling_rate=0.5", *plain), bound).has_error()


@pytest.mark.parametrize("num", [1, 7, 8, 10, 15, 16, 20])
def test_one_more_pair_moves_no_other_pair_s_feature(num: int, tmp_path: Path) -> None:
    """Not in the last digit: a server could make it large, and the sum moved by more than C."""
    sources = device_sources(
        device_config(flatten(run_config())).data,
        teacher=TeacherConfig(name="icons"),
        public="emoji",
        cache=tmp_path,
    )
    images = np.random.default_rng(0).integers(0, 256, (num + 1, 16, 16, 3), dtype=np.uint8)
    larger, smaller = (device_features(sources, images[:many]) for many in (num + 1, num))
    np.testing.assert_array_equal(larger[:num], smaller)


def test_a_node_without_pairs_or_index_is_told_so(device: Device) -> None:
    assert reason(ask(run_config(), {"state-dir": str(device.root / "state")})) == "refused: node-config"


def test_indices_of_devices_that_have_none_differ() -> None:
    node = {"data-dir": "/pairs"}
    assert read_node(node, node_id=2**40 + 5).client == 5
    assert read_node(node, node_id=2**40 + 6).client == 6
    assert read_node(node | {"partition-id": 2}, node_id=9).client == 2


# One pair decides nothing but its own gradient.


def add_grey(folder: Path) -> None:
    write_pairs(folder, [90], colour=False)


def add_broken(folder: Path) -> None:
    write_pairs(folder, [91], colour=True)
    (folder / "target" / "p091.png").write_bytes(b"no png")


def add_empty(folder: Path) -> None:
    write_pairs(folder, [92], colour=True)
    (folder / "source" / "p092.png").write_bytes(b"")


def add_half(folder: Path) -> None:
    write_pairs(folder, [93], colour=True)
    (folder / "source" / "p093.png").unlink()


def add_twice(folder: Path) -> None:
    write_pairs(folder, [94], colour=True)
    Image.new("RGB", (16, 16)).save(folder / "target" / "p094.jpg")


def add_small(folder: Path) -> None:
    write_pairs(folder, [95], colour=True)
    Image.new("RGB", (8, 8)).save(folder / "target" / "p095.png")


def add_wide(folder: Path) -> None:
    write_pairs(folder, [96], colour=True)
    Image.new("RGB", (64, 16)).save(folder / "target" / "p096.png")


def add_depth(folder: Path) -> None:
    write_pairs(folder, [97], colour=True)
    Image.fromarray(np.full((16, 16), 1000, np.uint16)).save(folder / "target" / "p097.png")


def add_sound(folder: Path) -> None:
    (folder / "target" / "p098.wav").write_bytes(b"RIFF")
    write_pairs(folder, [98], colour=True)
    (folder / "target" / "p098.png").unlink()


def add_folder(folder: Path) -> None:
    write_pairs(folder, [99], colour=True)
    (folder / "target" / "p099.png").unlink()
    (folder / "target" / "p099.png").mkdir()


def add_pipe(folder: Path) -> None:
    write_pairs(folder, [89], colour=True)
    (folder / "source" / "p089.png").unlink()
    os.mkfifo(folder / "source" / "p089.png")


def add_device(folder: Path) -> None:
    write_pairs(folder, [88], colour=True)
    (folder / "source" / "p088.png").unlink()
    (folder / "source" / "p088.png").symlink_to("/dev/zero")


def add_bomb(folder: Path) -> None:
    """Half a megabyte that is two gigabytes in memory."""
    write_pairs(folder, [87], colour=True)
    Image.new("1", (8000, 8000)).save(folder / "target" / "p087.png")


def add_labels(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"\xff\xfe broken")
    (folder / "pairs.csv").write_text("nonsense\n1,2,3\n")


BAD = [
    add_grey,
    add_broken,
    add_empty,
    add_half,
    add_twice,
    add_small,
    add_wide,
    add_depth,
    add_sound,
    add_folder,
    add_pipe,
    add_device,
    add_bomb,
    add_labels,
]
COLOUR = {"target-kind": "rgb"}


def colour_device(root: Path) -> Device:
    made = make_device(root, colour=True)
    made.begin()
    return made


@pytest.mark.parametrize("add", BAD, ids=lambda one: one.__name__)
def test_a_bad_pair_is_left_out_by_itself(add, tmp_path: Path, coins: None) -> None:
    """Two devices, of which one has a bad pair more: under the same coins they answer the same bytes."""
    good, bad = (colour_device(tmp_path / name) for name in ("good", "bad"))
    add(bad.pairs)
    for index in (1, 2):
        one, two = (
            ask(run_config(), each.node | {"partition-id": 1}, channels=3, sent=COLOUR, round_index=index)
            for each in (good, bad)
        )
        assert bytes_of(one) == bytes_of(two)
        assert layout(one) == layout(two)
    counts = [DeviceLedgers(state=each.root / "state").find(each.pairs, []) for each in (good, bad)]
    assert [one.ledger.num_rounds() for one in counts] == [2, 2]


def layout(reply: Message) -> dict[str, object]:
    """Everything of a reply but the values of the weights."""
    content = reply.content
    arrays = content.array_records["arrays"]
    return {
        "records": sorted(content),
        "arrays": {
            name: (one.dtype, tuple(one.shape), one.stype, len(one.data)) for name, one in arrays.items()
        },
        "metrics": dict(content.metric_records["metrics"]),
    }


NOISED = ("privacy.aggregation=noised-sum", "federation.local_steps=1", "privacy.sampling_rate=1")


ONCE = (*NOISED, "privacy.mechanism=statistics", "federation.num_rounds=1")


@pytest.mark.parametrize("changes", [(), NOISED, ONCE], ids=["plain", "noised-sum", "statistics"])
@pytest.mark.parametrize("rows", [[], [0], [0, 1], list(range(1, 10)), list(range(9)), list(range(11))])
def test_the_fact_and_the_form_of_an_answer_do_not_depend_on_the_pairs(
    rows: list[int], changes: tuple[str, ...], tmp_path: Path
) -> None:
    """No pair, one, two; the first or the last one missing; one more."""
    usual = make_device(tmp_path / "usual")
    usual.begin()
    other = make_device(tmp_path / "other", rows=rows)
    other.begin()
    one, two = (ask(run_config(*changes), each.node | {"partition-id": 1}) for each in (usual, other))
    assert layout(one) == layout(two)


@pytest.mark.parametrize("rows", [0, 1, 2, 10])
def test_an_archive_is_read_row_by_row(rows: int, tmp_path: Path) -> None:
    made = make_device(tmp_path / "node")
    noise = np.random.default_rng(3)
    target = noise.integers(0, 256, (rows, 16, 16, 1), dtype=np.uint8)
    path = tmp_path / "node" / "pairs.npz"
    np.savez(path, source=noise.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8), target=target)
    device = Device(root=made.root, pairs=path)
    device.begin()
    assert check_node(device.node, run_config()).num_pairs == rows
    assert not ask(run_config(), device.node).has_error()


def test_skipped_pairs_are_counted_for_the_owner_alone(tmp_path: Path) -> None:
    device = colour_device(tmp_path / "node")
    for add in (add_grey, add_broken):
        add(device.pairs)
    report = check_node(device.node, run_config("data.target_kind=rgb"))
    assert (report.num_pairs, len(report.skipped)) == (10, 2)
    assert "p090.png is grey" in report.skipped[0]
    reply = ask(run_config(), device.node | {"partition-id": 1}, channels=3, sent=COLOUR)
    assert "2" not in repr(dict(reply.content.metric_records["metrics"]))


def test_the_kind_is_a_setting_and_never_looked_up(tmp_path: Path) -> None:
    """The same colour pairs are grey drawings for a student of one channel."""
    device = colour_device(tmp_path / "node")
    assert not ask(run_config(), device.node, channels=1).has_error()
    assert not ask(run_config("data.target_kind=rgb"), device.node, channels=3).has_error()
    # All of another kind: no pair can be used, which is an answer too.
    assert not ask(run_config("data.target_kind=depth"), device.node, channels=2).has_error()


def test_settings_that_a_device_takes_are_the_run_s() -> None:
    config = run_config("data.image_size=32", "data.source_size=64", "distill.temperature=0.2")
    taken = device_config(flatten(config))
    assert (taken.data.image_size, taken.data.source_side, taken.distill.temperature) == (32, 64, 0.2)
    assert unflatten(flatten(taken)) == taken


def test_a_refusal_says_one_word_and_no_path(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    secret = device.node | {"data-dir": str(device.root / "alice-biopsy")}
    said = reason(ask(run_config(), secret))
    assert said == "refused: node-config"
    assert "alice-biopsy" in caplog.text


def test_a_refused_budget_travels_as_a_word(device: Device) -> None:
    said = reason(ask(run_config(), device.node | {"max-epsilon": 0.01}))
    assert said == "refused: budget-spent"


@pytest.mark.parametrize("what", ["clients.private", "edgecmd.models.teacher.feature_cache"])
def test_a_full_disk_releases_nothing_uncounted(
    what: str, device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reply that cannot be kept is not released; a cache that cannot be written costs nothing."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    ledger = DeviceLedgers(state=device.root / "state").find(device.pairs, []).ledger
    with monkeypatch.context() as patch:
        patch.setattr(f"{what}.write_bytes_atomically", full)
        reply = ask(run_config(), device.node)
    if "feature_cache" in what:
        assert not reply.has_error()
        return
    assert reason(reply) == "refused: ledger"
    assert str(ledger.path) in caplog.text
    assert ledger.num_rounds() == 0
    assert not ask(run_config(), device.node).has_error()
