"""The library: the code that a researcher writes, with objects of their own, from pairs to a bundle."""

import copy
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import edgecmd as ec
from edgecmd.arguments import refuse_licence
from edgecmd.audits.static import checks
from edgecmd.core.events import FILE, read_events
from edgecmd.data.stored.array_files import LazyRows
from edgecmd.models.digests import digest
from edgecmd.settings import ExportConfig
from tests.command_line import edgecmd
from tests.quick import brief_checks

SIDE, NUM = 16, 40


class Backbone(nn.Module):
    """A teacher of one's own: (B, 3, H, W) to (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(3)
            self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 12)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.conv(image).relu().mean(dim=(2, 3)))


class Small(nn.Module):
    """A student of one's own: (B, 1, H, W) to (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(4)
            self.conv, self.out = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(8, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.conv(image).relu().mean(dim=(2, 3)))


class Squared(ec.Loss):
    """A loss of one's own, of a pair alone."""

    needs_anchors, couples_pairs = True, False

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        own, other = nn.functional.normalize(student), nn.functional.normalize(teacher)
        return (own - other).square().sum(dim=1) + (own @ nn.functional.normalize(anchors).T).square().mean(1)


def pictures(num: int, seed: int, channels: int = 3) -> np.ndarray:
    """Blobs whose place and colour follow a hidden number, so that there is something to learn."""
    coins = np.random.default_rng(seed)
    where, made = coins.integers(2, SIDE - 6, (num, 2)), np.full((num, SIDE, SIDE, channels), 255, np.uint8)
    for image, (row, column) in zip(made, where, strict=True):
        image[row : row + 4, column : column + 4] = coins.integers(0, 200, channels)
    return made


@pytest.fixture(scope="module")
def pairs() -> ec.Pairs:
    source = pictures(NUM, 0)
    return ec.Pairs(
        source=source,
        target=source.min(axis=3, keepdims=True),
        ids=[f"pair-{row}" for row in range(NUM)],
        owner=[f"owner-{row % 3}" for row in range(NUM)],
    )


@pytest.fixture(scope="module")
def task(pairs: ec.Pairs) -> ec.Task:
    teacher = ec.Teacher(Backbone(), size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return ec.Task(pairs=pairs, teacher=teacher, public=ec.Images(images=pictures(30, 1)))


@pytest.fixture(scope="module")
def labelled() -> ec.Labelled:
    source = pictures(24, 2)
    classes = ["left" if (one[:, :8] < 255).sum() > (one[:, 8:] < 255).sum() else "right" for one in source]
    return ec.Labelled(target=source.min(axis=3, keepdims=True), labels=classes, source=source)


def state(student: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_import_is_light_and_offers_the_public_names() -> None:
    code = (
        "import sys; import edgecmd as ec; assert not {'torch', 'numpy'} & set(sys.modules), 'heavy';"
        "missing = [name for name in ec.__all__ if not hasattr(ec, name)]; assert missing == [], missing;"
        "more = {'sklearn', 'scipy.stats', 'matplotlib', 'flwr'} & set(sys.modules);"
        "assert not more, more"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1200)
    with pytest.raises(AttributeError, match="It offers: Pairs"):
        _ = ec.Pears  # type: ignore[attr-defined]


def test_some_pairs_are_taken_by_number_or_by_truth_and_nothing_is_read() -> None:
    source = np.arange(6 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(6, 32, 32, 3)
    pairs = ec.Pairs(
        source=LazyRows((source,), np.arange(6)),
        target=ec.strings(["a", "b", "c", "d", "e", "f"], num_bytes=4),
        ids=["0", "1", "2", "3", "4", "5"],
        owner=["ann", "bob"] * 3,
    )
    some = pairs.take([4, 1])
    assert isinstance(some.source, LazyRows)
    assert np.array_equal(some.source[:], source[[4, 1]])
    assert (some.target[:, 0].tobytes(), some.ids, some.owner) == (b"eb", ("4", "1"), ("ann", "bob"))
    assert pairs.take(np.array(pairs.owner) == "bob").ids == ("1", "3", "5")
    for rows, told in (
        ([6, 0], "index 6"),
        ([True] * 5, "boolean"),
        (np.array([[0, 1]]), "shape"),
        ([2], "holds 1 pairs"),
    ):
        with pytest.raises(ec.EdgecmdError, match=told):
            pairs.take(rows)


def test_distil_in_one_place(task: ec.Task, labelled: ec.Labelled) -> None:
    student = ec.student("ws-50k", dim=task.teacher_dim, in_channels=task.in_channels, size=task.size)
    before, losses = state(student), list[float]()
    result = ec.distill(
        task, student, loss=ec.losses.CMC(temperature=0.1), steps=60, batch_size=16, augment=0.0,
        progress=lambda done, steps, loss: losses.append(loss),
    )  # fmt: skip
    assert same(state(student), before), "the student that was given is as it was"
    assert not same(state(result.student), before)
    assert len(losses) == 2
    assert losses[-1] < losses[0] < np.log(16) + 0.1
    scores = result.evaluate(labelled)
    assert (scores.num, scores.num_classes) == (24, 2)
    assert 0.0 <= scores.recall_at_1 == scores.recall["recall@1"] <= 1.0
    assert "R@1" in str(scores)
    again = ec.distill(
        task, student, loss=ec.losses.CMC(temperature=0.1), steps=60, batch_size=16, augment=0.0
    )
    assert same(state(again.student), state(result.student))


def test_a_perfect_student_finds_everything(task: ec.Task, labelled: ec.Labelled) -> None:
    """A student that gives the teacher's own features has a recall of 1, by the definition of it."""
    features = torch.from_numpy(task.teacher.embed(labelled.source))

    class Told(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return features[: len(image)]

    assert ec.evaluate(Told(), labelled, task=task).recall_at_1 == 1.0


def test_federate_with_own_objects_resumes_and_repeats(
    pairs: ec.Pairs, task: ec.Task, tmp_path: Path
) -> None:
    clients = ec.partition(pairs, num_clients=3, by="owner")
    owners = [{pairs.owner[row] for row in rows} for rows in clients.parts]
    assert sorted(map(len, owners)) == [1, 1, 1]
    student = ec.student(Small(), dim=task.teacher_dim, in_channels=1, size=task.size)
    rounds = {"clients": clients, "loss": Squared(), "local_steps": 2, "batch_size": 8, "seed": 5}
    whole = ec.federate(task, student, rounds=3, out=tmp_path / "whole", **rounds)
    assert len(whole.history) == 3
    assert same(state(ec.federate(task, student, rounds=3, **rounds).student), state(whole.student))

    def stop(done: int, _rounds: int, _loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ec.federate(task, student, rounds=3, out=tmp_path / "cut", progress=stop, **rounds)
    resumed = ec.federate(task, student, rounds=3, out=tmp_path / "cut", **rounds)
    assert len(resumed.history) == 1
    assert same(state(resumed.student), state(whole.student))
    other = ec.student(Backbone1(), dim=task.teacher_dim, in_channels=1, size=task.size)
    assert edgecmd("resume", tmp_path / "cut", folder=tmp_path).returncode == 2
    assert "Call edgecmd.federate again" in edgecmd("resume", tmp_path / "cut", folder=tmp_path).stderr
    with pytest.raises(ec.EdgecmdError, match="other settings"):
        ec.federate(task, other, rounds=3, out=tmp_path / "cut", **rounds)


def test_federate_asynchronously(pairs: ec.Pairs, task: ec.Task, tmp_path: Path) -> None:
    """A buffer for everybody's answer is a synchronous round; a smaller one goes on without the slowest."""
    clients = ec.partition(pairs, num_clients=3, by="owner")
    asked = {"clients": clients, "rounds": 4, "local_steps": 1, "batch_size": 4, "seed": 5}

    def ages(name: str, **changes: object) -> tuple[ec.Federated, list[list[int]]]:
        done = ec.federate(task, "ws-50k", out=tmp_path / name, **asked, **changes)
        return done, [one.get("staleness") for one in read_events(tmp_path / name / FILE, kind="round")]

    waits, _ = ages("waits")
    whole, fresh = ages("whole", buffer_size=3)
    assert fresh == [[0, 0, 0]] * 4
    assert same(state(whole.student), state(waits.student))
    uneven, old = ages("uneven", buffer_size=2, slowest=4)
    # They take 1, 2 and 4 seconds: the slowest is first heard with the fastest's third answer or later.
    assert old[0] == [0, 0]
    assert max(age for one in old for age in one) > 0
    assert not same(state(uneven.student), state(waits.student))
    # Nobody's answer is older than it may be; then the slowest is never heard.
    assert ages("fresh", buffer_size=1, slowest=4, max_staleness=0)[1] == [[0]] * 4
    with pytest.raises(ec.EdgecmdError, match="buffer_size=4 exceeds"):
        ages("too many", buffer_size=4)


def test_a_plan_holds_for_asynchronous_rounds(pairs: ec.Pairs, task: ec.Task) -> None:
    asked = {"clients": ec.partition(pairs, num_clients=2), "buffer_size": 1, "slowest": 2}
    plan = ec.PrivacyPlan.calibrate(epsilon=8, delta=1e-5, rounds=2, local_steps=1, batch_size=4)
    assert ec.federate(task, "ws-50k", privacy=plan, **asked).epsilon <= 8
    of_clients = ec.PrivacyPlan.calibrate(
        mechanism="client", epsilon=8, delta=1e-5, rounds=2, local_steps=1, num_clients=2
    )
    with pytest.raises(ec.EdgecmdError, match="do not go together"):
        ec.federate(task, "ws-50k", privacy=of_clients, **asked)


def test_fedprox_keeps_a_client_near_the_first_weights(pairs: ec.Pairs, task: ec.Task) -> None:
    """With one client and one round, the distance to the first weights falls as mu grows."""
    student = ec.student(Small(), dim=task.teacher_dim, in_channels=1, size=task.size)
    first = state(student)
    moved = []
    for mu in (0.0, 30.0):
        done = ec.federate(
            task,
            student,
            clients=[np.arange(NUM)],
            rounds=1,
            local_steps=12,
            batch_size=8,
            strategy="fedprox" if mu else "fedavg",
            proximal_mu=mu,
        )
        now = state(done.student)
        moved.append(sum(float((now[name] - first[name]).square().sum()) for name in first))
    assert moved[1] < moved[0]
    with pytest.raises(ec.EdgecmdError, match="proximal_mu"):
        ec.federate(task, student, clients=[np.arange(NUM)], rounds=1, strategy="fedprox")


def test_the_servers_step_and_adaptivity_count(pairs: ec.Pairs, task: ec.Task) -> None:
    """Half a step of the server without momentum ends half-way to the plain average."""
    student = ec.student(Small(), dim=task.teacher_dim, in_channels=1, size=task.size)
    asked = {"clients": [np.arange(NUM)], "rounds": 1, "local_steps": 3, "batch_size": 8}
    first, whole = state(student), state(ec.federate(task, student, **asked).student)
    half = ec.federate(
        task, student, strategy="fedavgm", server_learning_rate=0.5, server_momentum=0, **asked
    )
    for name, value in state(half.student).items():
        torch.testing.assert_close(value, (first[name] + whole[name]) / 2)
    # Adam's step from zero moments is rate x (1 - momentum) d / (|d| sqrt(1 - 0.99) + tau) of a change d.
    adam = {"strategy": "fedadam", "server_learning_rate": 0.01, "server_momentum": 0.5, "server_tau": 1e3}
    for name, value in state(ec.federate(task, student, **adam, **asked).student).items():
        assert (
            float((value - first[name]).abs().max())
            <= 0.01 * 0.5 * float((whole[name] - first[name]).abs().max()) / 1e3 + 1e-6
        )
    with pytest.raises(ec.EdgecmdError, match="server_tau"):
        ec.federate(task, student, server_tau=0, **asked)


class Backbone1(Small):
    """The same shape, other weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.out.bias.add_(1.0)


def test_private_federation_statement_audit_and_bundle(
    pairs: ec.Pairs,
    task: ec.Task,
    labelled: ec.Labelled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A tenth of the tries: that a sound step passes all of them is in audit/test_static.py.
    monkeypatch.setattr(checks, "Effort", partial(checks.Effort, num_tries=10))
    plan = ec.PrivacyPlan.calibrate(
        mechanism="anchors", epsilon=8, delta=1e-5, rounds=2, local_steps=2, batch_size=8, sampling_rate=0.5
    )
    private = ec.federate(
        task,
        ec.student("ws-50k", dim=task.teacher_dim, in_channels=1, size=task.size),
        clients=ec.partition(pairs, num_clients=2),
        rounds=2,
        local_steps=2,
        privacy=plan,
        out=tmp_path / "private",
    )
    assert private.epsilon <= 8.0
    for part in ("epsilon = ", "delta = 1e-05", "for each pair", "add or remove one pair", "against"):
        assert part in private.statement
    with brief_checks():
        report = ec.audit(private, levels=["static"]).raise_if_contradicted()
    assert report.findings
    assert (tmp_path / "private" / "audit.json").exists()
    # How far w8 is from the student depends on the noise, which is another each time; see fp32.
    bundle = ec.export(private, tmp_path / "bundle", profiles=["fp32", "int8"], labelled=labelled)
    embedding = bundle.embed(labelled.target)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, rtol=1e-5)
    assert float((embedding * private.embed(labelled.target)).sum(axis=1).min()) > 0.999
    assert set(bundle.classify(labelled.target)) <= {"left", "right"}
    again = ec.load_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(again.embed(labelled.target), embedding)


def test_ready_features_in_place_of_a_teacher(pairs: ec.Pairs) -> None:
    coins = np.random.default_rng(1)
    public = ec.Images(images=pictures(20, 5))
    task = ec.Task(
        pairs=pairs,
        teacher=coins.normal(size=(NUM, 5)).astype(np.float32),
        public=public,
        public_features=coins.normal(size=(20, 5)).astype(np.float32),
    )
    student = ec.student("ws-50k", dim=task.teacher_dim, in_channels=1, size=task.size)
    assert task.teacher_dim == 5
    assert np.isfinite(ec.distill(task, student, loss="cmc-anchored", steps=2, batch_size=8).loss)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (np.zeros(5), "teacher has rows with nothing but zeros: 1 .row 3."),
        (np.full(5, 2.0), "teacher has rows with one number repeated: 1 .row 3."),
        (np.full(5, np.nan), "teacher holds numbers that are not finite"),
        (np.array([1e30, 0, 0, 0, 1]), "teacher has rows with a length outside"),
    ],
)
def test_ready_features_that_no_teacher_gives_are_refused(
    row: np.ndarray, told: str, pairs: ec.Pairs
) -> None:
    features = np.random.default_rng(1).normal(size=(NUM, 5)).astype(np.float32)
    public = ec.Images(images=pictures(20, 5))
    features[3] = row
    with pytest.raises(ec.EdgecmdError, match=told):
        ec.Task(pairs=pairs, teacher=features, public=public, public_features=features[:20])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps=0 is outside the allowed range"),
        ({"loss": "cmcc"}, "Did you mean 'cmc'"),
        ({"optimizer": "adam"}, "distill.optimizer='adam' is unknown"),
        ({"batch_size": 1}, "batch_size=1"),
    ],
)
def test_errors_of_distil_say_what_is_allowed(task: ec.Task, change: dict, told: str) -> None:
    student = ec.student("ws-50k", dim=task.teacher_dim, in_channels=1, size=task.size)
    with pytest.raises(ec.EdgecmdError, match=told):
        ec.distill(task, student, **{"steps": 1, **change})


def test_errors_of_objects_say_what_is_allowed(pairs: ec.Pairs, task: ec.Task) -> None:
    with pytest.raises(ec.EdgecmdError, match="Pairs.ids has 3 entries for 40 pairs"):
        ec.Pairs(source=pairs.source, target=pairs.target, ids=["a", "b", "c"])
    with pytest.raises(ec.EdgecmdError, match="allowed is uint8"):
        ec.Pairs(source=pairs.source.astype(np.float32), target=pairs.target)
    with pytest.raises(ec.EdgecmdError, match="Read both with the same size"):
        ec.Task(pairs=pairs, teacher="icons", public=ec.Images(images=np.zeros((2, 8, 8, 3), np.uint8)))
    wide = ec.student("ws-50k", dim=99, in_channels=1, size=task.size)
    with pytest.raises(ec.EdgecmdError, match="99"):
        ec.distill(task, wide, steps=1)
    student = ec.student("ws-50k", dim=task.teacher_dim, in_channels=1, size=task.size)
    clients = [np.arange(20), np.arange(10, 40)]
    with pytest.raises(ec.EdgecmdError, match="a pair to two clients"):
        ec.federate(task, student, clients=clients, rounds=1)
    with pytest.raises(ec.EdgecmdError, match="objects in memory cannot travel"):
        ec.federate(task, student, clients=ec.partition(pairs, num_clients=2), rounds=1, num_workers=2)
    plan = ec.PrivacyPlan.calibrate(epsilon=8, delta=1e-5, rounds=3, local_steps=2)
    with pytest.raises(ec.EdgecmdError, match="The plan is for 3 rounds of 2 steps"):
        ec.federate(
            task, student, clients=ec.partition(pairs, num_clients=2), rounds=1, local_steps=2, privacy=plan
        )


class Normalising(Small):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(self.out, nn.BatchNorm1d(6))


class Coupled(ec.Loss):
    """Says that it keeps pairs apart, and does not."""

    needs_anchors, couples_pairs = True, False

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        return ec.losses.CMC(temperature=0.1)(student, teacher, anchors)


def test_under_privacy_own_code_must_keep_pairs_apart(pairs: ec.Pairs, task: ec.Task) -> None:
    plan = ec.PrivacyPlan.calibrate(epsilon=8, delta=1e-5, rounds=1, local_steps=1, batch_size=8)
    asked = {"clients": ec.partition(pairs, num_clients=2), "rounds": 1, "local_steps": 1, "privacy": plan}
    with pytest.raises(ec.EdgecmdError, match=r"mixes|batch"):
        ec.federate(task, Normalising(), **asked)
    student = ec.student("ws-50k", dim=task.teacher_dim, in_channels=1, size=task.size)
    with pytest.raises(ec.EdgecmdError, match=r"other pairs|couples_pairs"):
        ec.federate(task, student, loss=Coupled(), **asked)
    with pytest.raises(ec.EdgecmdError, match="distill.loss='cmc'"):
        ec.federate(task, student, loss="cmc", **asked)


@pytest.fixture(scope="module")
def in_colour() -> ec.Task:
    """Pairs whose targets are RGB, of another side than students are tried on."""
    source = pictures(12, 6)
    pairs = ec.Pairs(source=source, target=255 - source)
    return ec.Task(pairs=pairs, teacher=Backbone(), public=ec.Images(images=pictures(8, 7)))


def test_a_student_learns_from_the_task_which_inputs_it_has(in_colour: ec.Task) -> None:
    """Left open, its channels are the task's: the student is the one that says them."""
    steps = {"steps": 2, "batch_size": 8}
    dim = in_colour.teacher_dim
    told = ec.student("ws-50k", dim=dim, in_channels=3, seed=4)
    left_open = ec.student("ws-50k", dim=dim, seed=4)
    wanted = ec.distill(in_colour, told, **steps)
    assert same(state(ec.distill(in_colour, left_open, **steps).student), state(wanted.student))
    assert left_open.in_channels == 1
    with pytest.raises(ec.EdgecmdError, match="takes 1 channels"):
        ec.distill(in_colour, ec.student("ws-50k", dim=dim, in_channels=1), **steps)
    with torch.no_grad():
        left_open.projector.bias.add_(1.0)
    with pytest.raises(ec.EdgecmdError, match="takes 1 channels"):
        ec.distill(in_colour, left_open, **steps)


def test_an_own_student_has_the_channels_of_its_first_convolution(in_colour: ec.Task) -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = ec.student(own, dim=in_colour.teacher_dim)
    assert (made.in_channels, made.size) == (3, (64, 64))
    trained = ec.distill(in_colour, made, steps=1, batch_size=8).student
    assert (trained.in_channels, trained.size) == (3, (SIDE, SIDE))
    flat = ec.student(nn.Sequential(nn.Conv2d(3, 1, 9, stride=8), nn.Flatten()), dim=in_colour.teacher_dim)
    with pytest.raises(ec.EdgecmdError, match=r"gives 1 numbers for inputs of shape \(3, 16, 16\), and 49"):
        ec.distill(in_colour, flat, steps=1)


@pytest.mark.parametrize(
    ("name", "told"), [("seg-50k", "needs one embedding per image"), ("audio-50k", "Allowed: ws-50k")]
)
def test_a_student_of_something_else_is_refused(task: ec.Task, name: str, told: str) -> None:
    with pytest.raises(ec.EdgecmdError, match=told):
        ec.distill(task, name, steps=1)


def test_public_images_come_at_the_side_of_the_pairs(pairs: ec.Pairs, tmp_path: Path) -> None:
    """Each quarter of a picture is one colour, so that a mean over any part of it is that colour."""
    quarter = np.repeat(np.repeat(pictures(1, 0)[:, :2, :2], 32, axis=1), 32, axis=2)[0]
    Image.fromarray(quarter).save(tmp_path / "one.png")
    public = ec.Images.from_folder(tmp_path)
    task = ec.Task(pairs=pairs, teacher=Backbone(), public=public)
    assert task.data.public.images.shape == (1, SIDE, SIDE, 3)
    np.testing.assert_array_equal(task.data.public.images[0], quarter[::4, ::4])
    with pytest.raises(ec.EdgecmdError, match="Read both with the same size"):
        ec.Task(pairs=pairs, teacher=Backbone(), public=ec.Images.from_folder(tmp_path, size=32))


def test_a_plan_says_how_long_a_run_is(pairs: ec.Pairs, task: ec.Task) -> None:
    clients = ec.partition(pairs, num_clients=2)
    with pytest.raises(ec.EdgecmdError, match=r"rounds is missing.*or a plan"):
        ec.federate(task, "ws-50k", clients=clients)
    plan = ec.PrivacyPlan.calibrate(epsilon=8, delta=1e-5, rounds=2, local_steps=1, batch_size=8)
    private = ec.federate(task, "ws-50k", clients=clients, privacy=plan)
    assert (private.run.federation.num_rounds, private.run.federation.local_steps) == (2, 1)


def test_a_student_knows_its_task_and_takes_no_pair_along(
    task: ec.Task, labelled: ec.Labelled, tmp_path: Path
) -> None:
    result = ec.distill(task, "ws-50k", steps=1, batch_size=8)
    copied = copy.deepcopy(result.student)
    assert str(ec.evaluate(copied, labelled)) == str(result.evaluate(labelled))
    bundle = ec.export(copied, tmp_path / "bundle", profiles="fp32")
    np.testing.assert_allclose(bundle.embed(labelled.target), result.embed(labelled.target), atol=1e-4)
    pickled = pickle.dumps(result.student)
    assert task.pairs.target[0].tobytes() not in pickled
    assert len(pickled) < 2 * sum(4 * one.numel() for one in result.student.state_dict().values())
    with pytest.raises(ec.EdgecmdError, match=r"does not record which inputs it takes.*task="):
        ec.export(pickle.loads(pickled), tmp_path / "other")
    ec.export(pickle.loads(pickled), tmp_path / "other", task=task, profiles="fp32")
    with pytest.raises(ec.EdgecmdError, match=r"does not record which inputs it takes.*task="):
        ec.evaluate(Small(), labelled)


def test_a_set_that_ships_as_objects() -> None:
    pairs, public, labelled = ec.built_in("emoji", size=16)
    assert (len(pairs), len(public)) == (2017, 1447)
    assert pairs.target.shape[1:] == (16, 16, 1)
    assert set(pairs.ids).isdisjoint(public.keys)
    assert len(set(labelled.labels)) > 2
    assert "" not in labelled.labels
    for name in ("folder", "my_sets:squares"):
        with pytest.raises(ec.EdgecmdError, match=r"is not a set that comes with edgecmd.*from_folder"):
            ec.built_in(name)
    with pytest.raises(ec.EdgecmdError, match="Did you mean 'emoji'"):
        ec.built_in("emojy")


class Fresh(Small):
    """Drops half of its features in training, and ends in a mean that people write."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.BatchNorm2d(8), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, image: Tensor) -> Tensor:
        return self.out(nn.functional.dropout(self.pool(self.conv(image).relu()), training=self.training))


def test_dropout_follows_the_seed(pairs: ec.Pairs, task: ec.Task) -> None:
    def federated() -> dict[str, Tensor]:
        torch.rand(3)  # What was drawn before does not matter.
        return state(
            ec.federate(task, Fresh(), clients=clients, rounds=1, local_steps=2, batch_size=8).student
        )

    clients = ec.partition(pairs, num_clients=2)
    first, other = (ec.distill(task, Fresh(), steps=2, batch_size=8, seed=seed) for seed in (1, 2))
    before = torch.get_rng_state()
    again = ec.distill(task, Fresh(), steps=2, batch_size=8, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state(first.student), state(again.student))
    assert not same(state(first.student), state(other.student))
    assert same(federated(), federated())


def test_usual_layers_of_an_own_student_are_exported(task: ec.Task, tmp_path: Path) -> None:
    """Batch statistics behind an activation, a leaky one, and a mean over places as torch has it."""
    result = ec.distill(task, Fresh(), steps=2, batch_size=8)
    target = task.pairs.target[:6]
    bundle = ec.export(result, tmp_path / "bundle", profiles="fp32")
    np.testing.assert_allclose(bundle.embed(target), result.embed(target), atol=1e-5)
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    with pytest.raises(ec.EdgecmdError, match=r"to \(3, 3\) locations is not supported"):
        ec.export(ec.distill(task, other, steps=1, batch_size=8), tmp_path / "other", profiles="fp32")
    assert not (tmp_path / "other").exists()


class Scaled(Squared):
    def __init__(self, by: float) -> None:
        self.by = torch.tensor(by)

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        return self.by * super().__call__(student, teacher, anchors)


def test_a_run_is_continued_with_equal_objects_alone(pairs: ec.Pairs, task: ec.Task, tmp_path: Path) -> None:
    """The loss's own numbers and the scale of targets are part of a run, though no setting names them."""
    asked = {"clients": ec.partition(pairs, num_clients=2), "rounds": 1, "local_steps": 1, "batch_size": 8}
    ec.federate(task, "ws-50k", loss=Scaled(1.0), out=tmp_path / "run", **asked)
    assert ec.federate(task, "ws-50k", loss=Scaled(1.0), out=tmp_path / "run", **asked).history == ()
    lighter = ec.Task(
        pairs=pairs, teacher=task.teacher, public=ec.Images(images=pictures(30, 1)), target_scale=-1
    )
    for given, loss in ((task, Scaled(2.0)), (lighter, Scaled(1.0))):
        with pytest.raises(ec.EdgecmdError, match=r"other settings or objects.*Call edgecmd.federate"):
            ec.federate(given, "ws-50k", loss=loss, out=tmp_path / "run", **asked)


WRONG = """
import re, numpy as np, torch, edgecmd as ec
from torch import nn
source = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
    def forward(self, image):
        return self.conv(image).mean(dim=(2, 3))
backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
pairs, public = ec.Pairs(source=source, target=source[..., :1]), ec.Images(images=source)
task = ec.Task(pairs=pairs, teacher=backbone, public=public)
parts = ec.partition(pairs, num_clients=2)
made = ec.federate(task, "ws-50k", clients=parts, rounds=1, local_steps=1, batch_size=4, out="made")
def distil(**change):
    ec.distill(**{"task": task, "student": "ws-50k", "steps": 1, "batch_size": 8, **change})
def tasked(**change):
    ec.Task(**{"pairs": pairs, "teacher": np.ones((12, 3)), "public": public, **change})
for told, make in {
    "steps='3' is of type str": lambda: distil(steps="3"),
    "seed=None is of type NoneType": lambda: distil(seed=None),
    "distill.learning_rate='a' is of type str": lambda: distil(learning_rate="a"),
    "distill.optimizer=None is unknown": lambda: distil(optimizer=None),
    "MyModule() and not MyModule": lambda: distil(student=Small),
    "is None, which is not a module": lambda: distil(student=None),
    "allowed is float32": lambda: distil(student=Small().double()),
    "task is of type int; allowed is an edgecmd.Task": lambda: distil(task=5),
    "Pairs.source is list": lambda: ec.Pairs(source=[1], target=pairs.target),
    "Pairs.ids=5 is of type int": lambda: ec.Pairs(source=source, target=source, ids=5),
    "shape=(12, 0, 16, 3)": lambda: ec.Pairs(source=source[:, :0], target=source),
    "public is of type ndarray": lambda: tasked(public=source),
    "public_features is of type list": lambda: tasked(public_features=[1]),
    "size='8' of a teacher": lambda: ec.Teacher(backbone, size="8"),
    "mean=0.5 of a teacher": lambda: ec.Teacher(backbone, mean=0.5),
    "crop='a' of a teacher": lambda: ec.Teacher(backbone, crop="a"),
    "crop=True of a teacher": lambda: ec.Teacher(backbone, crop=True),
    "weights is of type int": lambda: ec.Teacher("timm:resnet18", weights=5),
    "output is of type int": lambda: ec.Teacher("onnx:a.onnx", output=5),
    "teacher.name='onnx:' does not name an existing file": lambda: ec.Teacher("onnx:"),
    "parts='icons' is not a list": lambda: ec.Teacher.concat("icons"),
    "public is of type int": lambda: ec.Teacher.concat(["icons"], public=5, dim=2),
    "dim='a' is of type str": lambda: ec.Teacher.concat(["icons"], dim="a"),
    "clients is of type int": lambda: ec.federate(task, "ws-50k", clients=5, rounds=1),
    "Give one list of row numbers": lambda: ec.federate(task, "ws-50k", clients=[3, 4], rounds=1),
    "privacy.delta='a' is of type str": lambda: ec.PrivacyPlan.calibrate(
        epsilon=1, delta="a", rounds=1, local_steps=1
    ),
    "labelled is of type NoneType": lambda: ec.evaluate(Small(), None, task=task),
    "audit takes what edgecmd.federate returns": lambda: ec.audit(None),
    "profiles=5 is of type int": lambda: ec.export(Small(), "bundle", task=task, profiles=5),
    "min_cosine=2 is outside the allowed range [-1, 1]": lambda: ec.export(
        Small(), "bundle", task=task, min_cosine=2
    ),
    "export.calibration='none' is unknown": lambda: ec.export(Small(), "b", task=task, calibration="none"),
    "license='' is not an SPDX licence name": lambda: ec.export(Small(), "b", task=task, license=""),
    "and more' is not an SPDX licence": lambda: ec.export(Small(), "b", task=task, license="MIT\\nand more"),
    "LicenseRef-<a name of yours>": lambda: ec.export(Small(), "b", task=task, license="banana"),
    "contains a NUL character, which no path can": lambda: ec.export(Small(), "a" + chr(0) + "b", task=task),
    "folder=5 is of type int; allowed is a path": lambda: ec.load_bundle(5),
    "folder='' is empty": lambda: ec.load_bundle(""),
    "profile is of type int": lambda: ec.load_bundle("bundle", profile=5),
    "pub=5 is of type int": lambda: ec.load_bundle("bundle", pub=5),
    "task is of type int; allowed is": lambda: ec.evaluate(
        Small(), ec.Labelled(target=pairs.target, labels=list("ab" * 6)), task=5
    ),
    "cache=5 is of type int; allowed is a path": lambda: tasked(teacher=backbone, cache=5),
    "path=5 is of type int": lambda: ec.Pairs.from_folder(5),
    "path=b'x' is of type bytes": lambda: ec.Images.from_folder(b"x"),
    "path=None is of type NoneType": lambda: ec.Labelled.from_folder(None),
    "out=5 is of type int": lambda: ec.federate(task, "ws-50k", clients=parts, rounds=1, out=5),
    "progress=5 cannot be called": lambda: distil(progress=5),
    "progress='told' cannot be called. Give a function": lambda: ec.federate(
        task, "ws-50k", clients=parts, rounds=1, progress="told"
    ),
    "distill.batch_size=[8] is of type list": lambda: distil(batch_size=[8]),
    "distill.learning_rate=[] is of type list": lambda: distil(learning_rate=[]),
    "privacy.epsilon=[5] is of type list": lambda: ec.PrivacyPlan.calibrate(
        epsilon=[5], delta=1e-5, rounds=1, local_steps=1
    ),
    "mechanism is of type list": lambda: ec.PrivacyPlan.calibrate(
        mechanism=[], epsilon=1, delta=1e-5, rounds=1, local_steps=1
    ),
    "federation.buffer_size=[2] is of type list": lambda: ec.federate(
        task, "ws-50k", clients=parts, rounds=1, buffer_size=[2]
    ),
    "federation.slowest='a' is of type str": lambda: ec.federate(
        task, "ws-50k", clients=parts, rounds=1, slowest="a"
    ),
    "num_workers=array": lambda: ec.federate(task, "s", clients=parts, rounds=1, num_workers=np.ones(3)),
    "which is not a module": lambda: distil(student=lambda image: image),
    "A teacher cannot be made from 5": lambda: ec.Teacher(5),
    "name is of type list": lambda: ec.Teacher(backbone, name=[]),
    "name is of type ndarray": lambda: ec.built_in(np.ones(3)),
    "Images.name is of type int": lambda: ec.Images(images=source, name=5),
    "levels=5 names no level": lambda: ec.audit(made, levels=5),
    "levels names 'step', which needs a run with a privacy mechanism": lambda: ec.audit(made, levels="step"),
    "levels names 'step', which": lambda: ec.audit(made, levels=["static", "step"]),
}.items():
    try:
        make()
    except ec.EdgecmdError as error:
        assert told in str(error), (told, str(error))
    else:
        raise AssertionError(told)
"""


def test_arguments_of_another_type_are_refused_by_name(tmp_path: Path) -> None:
    """In a process of its own: here the annotations are checked before the code sees a value."""
    folder = {**os.environ, "PYTHONPATH": str(Path(ec.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", WRONG], cwd=tmp_path, env=folder, capture_output=True, text=True, timeout=1200
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [({"seed": -1}, "seed=-1 is outside"), ({"steps": 0}, "steps=0 is outside")],
)
def test_numbers_of_distil_are_in_range(task: ec.Task, change: dict, told: str) -> None:
    with pytest.raises(ec.EdgecmdError, match=told):
        ec.distill(task, "ws-50k", **{"steps": 1, "batch_size": 8, **change})
    with pytest.raises(ec.EdgecmdError, match=r"distill.temperature=-1.0 is outside"):
        ec.distill(task, "ws-50k", steps=1, loss=ec.losses.CMC(temperature=-1.0))


def test_a_loss_that_is_lost_is_told(task: ec.Task) -> None:
    class Odd(Small):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * (1.0 if len(image) < 8 else float("nan"))

    with pytest.raises(ec.EdgecmdError, match="The loss is nan after 1 steps"):
        ec.distill(task, Odd(), steps=1, batch_size=8)


def test_wrong_objects_around_a_task_are_refused_by_name(
    pairs: ec.Pairs, task: ec.Task, labelled: ec.Labelled
) -> None:
    public = ec.Images(images=pictures(4, 1))
    for told, make in {
        "public holds no image": lambda: ec.Task(
            pairs=pairs, teacher=Backbone(), public=ec.Images(images=pairs.source[:0])
        ),
        "target_scale=nan is outside": lambda: ec.Task(
            pairs=pairs, teacher=Backbone(), public=public, target_scale=float("nan")
        ),
        "dim=0 is outside": lambda: ec.student("ws-50k", dim=0),
        "num_clients=0 is outside": lambda: ec.partition(pairs, num_clients=0),
        "allowed is .24, 12.": lambda: ec.evaluate(nn.Flatten(), labelled, task=task),
    }.items():
        with pytest.raises(ec.EdgecmdError, match=told):
            make()


def test_a_plan_of_other_numbers_says_which_differ(pairs: ec.Pairs, task: ec.Task) -> None:
    made = {"mechanism": "client", "epsilon": 8, "delta": 1e-5, "rounds": 1, "local_steps": 1}
    asked = {"clients": ec.partition(pairs, num_clients=2), "batch_size": 8}
    with pytest.raises(ec.EdgecmdError, match=r"=2.* where the plan has .*10.*num_clients=\.\.\."):
        ec.federate(task, "ws-50k", privacy=ec.PrivacyPlan.calibrate(**made), **asked)
    plan = ec.PrivacyPlan.calibrate(num_clients=2, **made)
    assert ec.federate(task, "ws-50k", privacy=plan, **asked).epsilon <= 8


class Fails(Small):
    """A student that works for ``left`` calls of the original and its copies together."""

    left = 0

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = [type(error), str(error)]

    def forward(self, image: Tensor) -> Tensor:
        Fails.left -= 1
        if Fails.left < 0:
            raise self.error[0](self.error[1])
        return super().forward(image)


class BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise KeyError("no way back")


class Fragile(Squared):
    """A loss that fails where the batch is as large as none that it was tried on."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        if len(student) == 8 and self.how == "value":
            raise RuntimeError("no eight\nof them")
        if len(student) == 8 and self.how == "exit":
            sys.exit("so be it")
        if len(student) == 8 and self.how == "memory":
            raise MemoryError
        if len(student) == 8 and self.how == "gradient":
            student = BadGradient.apply(student)
        return super().__call__(student, teacher, anchors)


class Picky(Backbone):
    """A teacher that fails on more pictures than it was tried on."""

    def forward(self, image: Tensor) -> Tensor:
        if len(image) > 3:
            raise IndexError("too many")
        return super().forward(image)


@pytest.mark.parametrize("error", [ZeroDivisionError("by none"), SystemExit("over"), OSError(2, "no file")])
def test_a_student_that_fails_in_training_is_named(
    task: ec.Task, labelled: ec.Labelled, error: BaseException
) -> None:
    Fails.left = 99
    student = ec.student(Fails(error), dim=12, size=SIDE)
    told = rf"The student <Fails> raised {type(error).__name__}: .*Fix that code"
    Fails.left = 30
    with pytest.raises(ec.EdgecmdError, match=told) as found:
        ec.distill(task, student, steps=100, batch_size=8)
    assert isinstance(found.value.__cause__, type(error))
    with pytest.raises(ec.EdgecmdError, match=told):
        ec.evaluate(student, labelled, task=task)
    clients, Fails.left = ec.partition(task.pairs, num_clients=2), 30
    with pytest.raises(ec.EdgecmdError, match=f"client 0, stage distil: ConfigError: {told}"):
        ec.federate(task, student, clients=clients, rounds=50, batch_size=8)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("value", r"The loss Fragile raised RuntimeError: no eight\\nof them\. Fix"),
        ("exit", r"The loss Fragile raised SystemExit: so be it\. Fix"),
        ("gradient", r"The gradient of the loss Fragile raised KeyError: 'no way back'\. Fix"),
        ("memory", "This machine has too little free memory"),
    ],
)
def test_a_loss_that_fails_in_training_is_named(task: ec.Task, how: str, told: str) -> None:
    with pytest.raises(ec.EdgecmdError, match=told) as found:
        ec.distill(task, "ws-50k", loss=Fragile(how), steps=1, batch_size=8)
    assert found.value.__cause__ is not None


def test_a_teacher_that_fails_is_named(pairs: ec.Pairs) -> None:
    task = ec.Task(pairs=pairs, teacher=Picky(), public=ec.Images(images=pictures(4, 1)))
    with pytest.raises(ec.EdgecmdError, match=r"The teacher Picky raised IndexError: too many\. Fix"):
        ec.distill(task, "ws-50k", steps=1, batch_size=8)


def test_a_fault_of_edgecmd_is_not_blamed_on_anyone(task: ec.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ec.losses.CMC, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ec.distill(task, "ws-50k", steps=1, batch_size=8)


class Tempered(Small):
    """Plain attributes beside the weights, some of which are only numbers deep inside."""

    def __init__(self, temperature: float = 1.0, inner: nn.Module | None = None, notes: object = ()) -> None:
        super().__init__()
        self.temperature, self.notes = temperature, notes
        self.inner = inner or nn.ReLU()


def test_digests_cover_what_a_module_keeps_beside_its_weights() -> None:
    different = [
        Tempered(),
        Tempered(0.5),
        Tempered(inner=nn.Tanh()),
        Tempered(inner=nn.LeakyReLU(0.2)),
        Tempered(inner=nn.LeakyReLU(0.3)),
        Tempered(notes={"a": [1, 2]}),
        Tempered(notes={"a": [1, 3]}),
        nn.Sequential(Tempered()),
    ]
    assert len({digest(one) for one in different}) == len(different)
    for one in different:
        assert (
            digest(one)
            == digest(copy.deepcopy(one))
            == digest(one.eval())
            == digest(one.requires_grad_(False))
        )
    code = (
        "from test_library import Tempered;"
        "from edgecmd.models.digests import digest; print(digest(Tempered(0.5)))"
    )
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(here)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=True,
    )
    moved = Tempered(0.5)
    Tempered.__module__, Small.__module__, before = "test_library", "test_library", Tempered.__module__
    try:
        assert found.stdout.strip() == digest(moved)
    finally:
        Tempered.__module__ = Small.__module__ = before


def test_a_run_is_not_continued_with_a_student_of_another_temperature(task: ec.Task, tmp_path: Path) -> None:
    asked = {
        "clients": ec.partition(task.pairs, num_clients=2),
        "local_steps": 1,
        "batch_size": 8,
        "rounds": 1,
    }
    ec.federate(task, Tempered(), out=tmp_path / "one", **asked)
    with pytest.raises(ec.EdgecmdError, match="holds a run with other settings or objects"):
        ec.federate(task, Tempered(0.5), out=tmp_path / "one", **asked)


def test_a_module_of_one_size_is_told_how_to_say_it() -> None:
    one = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 6))
    with pytest.raises(ec.EdgecmdError, match=r"fails on inputs .*size=\.\.\., here it is \(64, 64\)"):
        ec.student(one, dim=6)
    assert ec.student(one, dim=6, size=SIDE).size == (SIDE, SIDE)


class Blind(Small):
    """Gives nearly one embedding for whatever it sees."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * 1e-7 + 1.0


def test_a_student_that_tells_nothing_apart_is_not_exported(task: ec.Task, tmp_path: Path) -> None:
    with pytest.raises(ec.EdgecmdError, match="nearly the same embedding for every input.*train it longer"):
        ec.export(Blind(), tmp_path / "bundle", task=task)
    assert list(tmp_path.iterdir()) == []


def test_a_licence_is_an_spdx_name(task: ec.Task, tmp_path: Path) -> None:
    for name in ("unspecified", "Apache-2.0", "MIT OR CC-BY-4.0", "LicenseRef-house"):
        refuse_licence("license", name)
    bundle = ec.export(Small(), tmp_path / "bundle", task=task, license="LicenseRef-house")
    assert "Weights: LicenseRef-house. " in (bundle.folder / "MODEL_CARD.md").read_text()
    with pytest.raises(ec.EdgecmdError, match="export.license='all mine' is not an SPDX licence"):
        ExportConfig(license="all mine")


class Net(nn.Module):
    """A student of one's own for any number of channels; of recordings too, whose height is 1."""

    def __init__(self, channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(5)
            self.conv, self.norm = nn.Conv2d(channels, 8, kernel, stride=2), nn.BatchNorm2d(8)
            self.out = nn.Linear(8, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(image)).relu().mean(dim=(2, 3)))


COINS = np.random.default_rng(9)
KINDS = {
    "depth": (COINS.integers(0, 4000, (NUM, SIDE, SIDE, 1)).astype(np.uint16), (2, SIDE, SIDE), (3, 3)),
    "wave": (COINS.integers(-20_000, 20_000, (NUM, 801)).astype(np.int16), (1, 1, 801), (1, 9)),
    "odd": (COINS.integers(0, 256, (NUM, 17, 17, 1)).astype(np.uint8), (1, 17, 17), (3, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_own_students_of_every_kind_of_target_are_exported(kind: str, tmp_path: Path) -> None:
    target, shape, kernel = KINDS[kind]
    pairs = ec.Pairs(source=pictures(NUM, 0), target=target, sampling_rate_hz=8000 if kind == "wave" else 0)
    task = ec.Task(pairs=pairs, teacher=Backbone(), public=ec.Images(images=pictures(8, 1)))
    assert task.input_shape == shape
    result = ec.distill(task, Net(shape[0], kernel), steps=2, batch_size=8)
    bundle = ec.export(result, tmp_path / "bundle")
    again = ec.load_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(again.embed(target[:5]), bundle.embed(target[:5]))
    assert float((bundle.embed(target[:5]) * result.embed(target[:5])).sum(axis=1).min()) > 0.9995


def test_what_no_file_takes_is_told_before_anything_is_made(tmp_path: Path) -> None:
    def task_of(target: np.ndarray, source: np.ndarray) -> ec.Task:
        pairs = ec.Pairs(source=source, target=target)
        return ec.Task(pairs=pairs, teacher=Backbone(), public=ec.Images(images=source[:4]))

    oblong = task_of(np.zeros((4, 16, 24, 1), np.uint8), np.zeros((4, 16, 24, 3), np.uint8))
    with pytest.raises(
        ec.EdgecmdError, match="targets are 16 x 24 pixels, but a file for a device takes squares"
    ):
        ec.export(Small(), tmp_path / "bundle", task=oblong)
    sound = task_of(np.zeros((4, 801), np.int16), pictures(4, 0))
    with pytest.raises(ec.EdgecmdError, match=r"rate_hz=0 does not go.*Pairs\(sampling_rate_hz=\.\.\.\)"):
        ec.export(Net(1, (1, 9)), tmp_path / "bundle", task=sound)
    with pytest.raises(ec.EdgecmdError, match=r"data.sampling_rate_hz=5 is outside the allowed range"):
        ec.Pairs(source=sound.pairs.source, target=sound.pairs.target, sampling_rate_hz=5)
    assert list(tmp_path.iterdir()) == []
