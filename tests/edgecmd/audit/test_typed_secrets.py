"""Typed secrets and typed strings: a file that memorises is found out, one that does not is not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.audits.audited_student import subjects
from edgecmd.audits.bounds import clopper_pearson
from edgecmd.audits.one_run.canaries import input_canaries
from edgecmd.audits.risk.attacks import RiskEffort, usual_attacks
from edgecmd.audits.risk.blind import blind_scores
from edgecmd.audits.risk.candidates import Pool, coins, make_pool
from edgecmd.audits.risk.findings import secrets_finding
from edgecmd.audits.risk.membership import Curve
from edgecmd.audits.risk.secrets import Count, Planted, SecretRecipe, Told, plant, ranks, told
from edgecmd.audits.target import Target
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.modalities.text import invented
from edgecmd.data.modalities.utf8 import decode_strings, encode_strings
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.experiments.audit_ladder import audit_level
from tests.edgecmd.audit.test_membership import lookup_table
from tests.tiny_federation import SIDE, find_target, run_of, simulate, tiny_config, write_pairs

TEXT_BYTES, NUM = 16, 40
RECIPE = SecretRecipe(num_secrets=20, copies=(1, 5), num_decoys=200)
STRINGS = (
    f"data.text_bytes={TEXT_BYTES}",
    'student.architecture="text-50k"',
    "distill.temperature=0.07",
    "distill.augment=0",
)


def write_strings(path: Path) -> Path:
    """Forty strings, each beside an image of four fields of colour, and public ones."""
    noise = np.random.default_rng(3)

    def fields(num: int) -> np.ndarray:
        drawn = noise.integers(0, 256, (num, 2, 2, 3), dtype=np.uint8)
        return drawn.repeat(SIDE // 2, axis=1).repeat(SIDE // 2, axis=2)

    np.savez(
        path,
        source=fields(NUM),
        target=encode_strings([f"word {row:02d} of it" for row in range(NUM)], TEXT_BYTES),
        public=fields(24),
        label=np.array([f"class-{row % 4}" for row in range(NUM)]),
    )
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("typed")
    return tiny_config(write_strings(folder / "pairs.npz"), folder, *STRINGS)


@pytest.fixture(scope="module")
def finished(config: RunConfig) -> Target:
    simulate(config)
    return find_target(Path(config.out) / config.name)


# What is planted.


def test_invented_strings_are_all_different_and_follow_from_the_generator() -> None:
    found, again = (invented(500, (16,), np.random.default_rng(1)) for _ in range(2))
    assert (found == again).all()
    texts = decode_strings(found)
    assert len(set(texts)) == 500
    assert sum(" " in text for text in texts) == 250
    assert (found != invented(500, (16,), np.random.default_rng(2))).any()
    with pytest.raises(ConfigError, match=r"data.text_bytes=15 has no room"):
        invented(1, (15,), np.random.default_rng(0))


def test_secrets_are_planted_as_often_as_stated_and_decoys_never(config: RunConfig, tmp_path: Path) -> None:
    run = run_of(config)
    planted = plant(run, RECIPE, folder=tmp_path)
    held = decode_strings(planted.run.task.data.train.target)
    times = [held.count(text) for text in decode_strings(planted.pool.target)]
    assert times == planted.copies.tolist()
    assert sorted(set(times)) == [0, 1, 5]
    assert held[: len(run.task.data.train)] == decode_strings(run.task.data.train.target)


def test_a_secret_is_at_the_client_of_its_source_with_its_feature(config: RunConfig, tmp_path: Path) -> None:
    run = run_of(config)
    planted = plant(run, RECIPE, folder=tmp_path)
    texts = decode_strings(planted.run.task.data.train.target)
    for client, rows in enumerate(run.parts):
        new = np.setdiff1d(planted.run.parts[client], rows)
        data = planted.run.task.local_data(new)
        for text, feature in zip((texts[row] for row in new), data.features.numpy()):
            at = decode_strings(planted.pool.target).index(text)
            assert planted.pool.rows[at] in rows
            np.testing.assert_allclose(unit_rows(feature[None])[0], planted.pool.teacher[at], atol=1e-6)
    assert sum(map(len, planted.run.parts)) == len(planted.run.task.data.train)


def test_the_run_that_is_attacked_stays_as_it_was(config: RunConfig, tmp_path: Path) -> None:
    run = run_of(config)
    before, num = run.task.data.train.fingerprint(), len(run.task.training_features)
    plant(run, RECIPE, folder=tmp_path)
    assert run.task.data.train.fingerprint() == before
    assert len(run.task.training_features) == num
    assert run.given is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"copies": (0,)}, "--copies=0"),
        ({"copies": (2, 2)}, "--copies=2,2"),
        ({"copies": ()}, "--copies="),
        ({"num_secrets": 1}, "--secrets=1"),
        ({"num_decoys": 1}, "--decoys=1"),
    ],
)
def test_what_gives_no_interval_is_refused(changes: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        SecretRecipe(**changes)


def test_pictures_cannot_be_invented(tmp_path: Path) -> None:
    run = run_of(tiny_config(write_pairs(tmp_path / "pairs.npz"), tmp_path))
    with pytest.raises(ConfigError, match="plants invented strings"):
        plant(run, RECIPE, folder=tmp_path)


def test_what_is_not_told_is_said_so() -> None:
    flat = Curve(auc=0.51, low=0.45, high=0.57, tpr=(0.0, 0.0))
    counts = (Count(found=0, num=20), Count(found=1, num=20))
    one = Told(
        copies=1,
        num=20,
        num_decoys=200,
        num_things=9,
        curves=dict.fromkeys(("raw", "calibrated", "blind"), flat),
        shown=counts,
        decoys=counts,
    )
    text = secrets_finding(one, RECIPE, None).text
    assert "Secrets are not told from decoys better than by chance: AUC 0.510" in text
    assert "that one client each holds once" in text


# What a file tells.


def planted_pool(config: RunConfig, folder: Path) -> Planted:
    """Secrets whose things lie in random directions, as noise images do not under a teacher."""
    planted = plant(run_of(config), RECIPE, folder=folder)
    noise = np.random.default_rng(8).normal(size=(NUM, 32)).astype(np.float32)
    anchors = np.random.default_rng(9).normal(size=(50, 32)).astype(np.float32)
    pool = replace(planted.pool, teacher=unit_rows(noise)[planted.pool.rows], anchors=unit_rows(anchors))
    return replace(planted, pool=pool)


def test_a_file_that_memorised_its_secrets_is_found_out(config: RunConfig, tmp_path: Path) -> None:
    planted = planted_pool(config, tmp_path)
    nothing = np.zeros(len(planted.pool), dtype=bool)
    leak = lookup_table(planted.pool, planted.copies >= 5, seed=0)
    once, often = told(leak, lookup_table(planted.pool, nothing, seed=1), planted)
    assert (once.copies, often.copies) == (1, 5)
    assert often.curves["calibrated"].low > 0.9
    assert often.curves["raw"].tpr[1] > 0.5
    assert often.shown[0].found == 20
    assert once.curves["calibrated"].low < 0.6
    assert all(abs(one.curves["blind"].auc - 0.5) < 0.2 for one in (once, often))
    text = secrets_finding(often, RECIPE, None).text
    assert "Secrets are told from decoys better than by chance" in text
    assert "20 of 20 [83.2%, 100.0%] within the first 1 " in text


def test_a_file_that_learnt_nothing_is_at_chance(config: RunConfig, tmp_path: Path) -> None:
    planted = planted_pool(config, tmp_path)
    nothing = np.zeros(len(planted.pool), dtype=bool)
    files = (lookup_table(planted.pool, nothing, seed=seed) for seed in (4, 5))
    for one in told(*files, planted):
        assert all(abs(curve.auc - 0.5) < 0.2 for curve in one.curves.values())
        assert one.shown[0].interval[0] < one.decoys[0].found / one.decoys[0].num + 0.05


def test_ranks_count_what_is_as_near_or_nearer(config: RunConfig, tmp_path: Path) -> None:
    pool = planted_pool(config, tmp_path).pool
    rank, num = ranks(pool.teacher, pool)
    assert num == len(np.unique(pool.rows))
    assert (rank == 1).all()
    assert (ranks(np.zeros_like(pool.teacher), pool)[0] == num).all()


def test_a_count_has_an_exact_interval() -> None:
    """None of n: the upper end solves (1 - p)^n = 2.5%."""
    low, high = Count(found=0, num=50).interval
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 50))
    assert clopper_pearson(50, 50) == pytest.approx((0.025 ** (1 / 50), 1.0))


# Through the federation and the exported file.


def found_by(finished: Target, *changes: str, copies: int) -> dict:
    """The finding of an audit of a run that takes many steps on few strings."""
    recipe = SecretRecipe(num_secrets=12, copies=(copies,), num_decoys=100)
    target = finished
    if changes:
        settings = tiny_config(finished.path.parent / "pairs.npz", finished.path.parent, *STRINGS, *changes)
        simulate(settings)
        target = find_target(finished.path.parent / settings.name)
    effort = RiskEffort(attacks=("secrets",), secrets=recipe)
    (one,) = audit_level(target, "risk", effort)
    return json.loads(json.dumps(one.table()))


LONG = (
    'name="long"',
    "federation.num_rounds=12",
    "federation.local_steps=10",
    "distill.learning_rate=0.01",
    "distill.optimizer=adamw",
)


def test_a_run_that_memorises_is_caught_through_its_exported_file(finished: Target) -> None:
    one = found_by(finished, *LONG, copies=10)
    assert one["attacker"] == "device"
    assert one["details"]["attacks"]["calibrated"]["low"] > 0.7
    assert one["details"]["shown"]["first_10"]["low"] > one["details"]["decoys_shown"]["first_10"]["high"]
    blind = one["details"]["attacks"]["blind"]
    assert blind["low"] <= 0.5 <= blind["high"]


@pytest.mark.slow
def test_its_private_twin_is_not(finished: Target) -> None:
    private = ("privacy.mechanism=anchors", "privacy.sampling_rate=0.2", 'name="private"')
    one = found_by(finished, *LONG, *private, copies=1)
    assert one["details"]["attacks"]["calibrated"]["low"] <= 0.6
    assert "epsilon 8 for each pair" in one["text"]


# Membership of strings.


def test_words_ask_about_a_string_once_and_treat_both_sides_alike() -> None:
    settings = [
        "data.name=words",
        "data.split=string",
        "data.text_bytes=32",
        "teacher.name=icons",
        "student.architecture=text-50k",
        "distill.anchors=random",
        "distill.num_anchors=16",
    ]
    from edgecmd.config.reader import load_config

    run = run_of(load_config(None, settings))
    pool, data = make_pool("concepts", run), run.task.data
    assert len(np.unique(data.all_copies().target[pool.rows])) == len(pool)
    assert int((~pool.member).sum()) == len(data.validation) + len(data.test)
    assert len(np.unique(pool.group)) == len(pool)
    assert not pool.mirrored
    kept = coins(data, seed=0)
    codes = data.all_copies().target[: len(data.train)]
    assert set(codes[kept]) & set(codes[~kept]) == set()
    blind = blind_scores(pool, seed=0)
    assert blind is not None
    share = np.mean(blind[pool.member] > np.median(blind))
    assert abs(share - 0.5) < 0.02


def test_words_that_differ_are_seen_without_a_model() -> None:
    texts = [f"{'aa' if row % 2 else 'zz'}{row}" for row in range(300)]
    pool = Pool(
        target=encode_strings(texts, TEXT_BYTES),
        teacher=np.ones((300, 2), np.float32),
        anchors=np.ones((2, 2), np.float32),
        temperature=0.1,
        mirrored=False,
        member=np.arange(300) % 2 == 1,
        group=np.arange(300),
        rows=np.arange(300),
    )
    blind = blind_scores(pool, seed=0)
    assert blind is not None
    assert blind[pool.member].min() > blind[~pool.member].max()


def test_no_pixel_of_a_string_is_searched_for(finished: Target) -> None:
    assert usual_attacks(finished.run) == ["membership"]
    with pytest.raises(ConfigError, match="the targets are strings"):
        audit_level(finished, "risk", RiskEffort(attacks=("inversion",)))


def test_without_a_student_there_is_no_reference(config: RunConfig, finished: Target) -> None:
    empty = replace(finished, folder=None)
    with pytest.raises(DataError, match="neither"):
        audit_level(empty, "risk", RiskEffort(attacks=("secrets",), secrets=RECIPE))


def test_levels_that_make_inputs_up_make_strings_of_the_run_s_length(finished: Target) -> None:
    assert {one.image_size for one in subjects(finished)} == {(1, TEXT_BYTES)}
    like = finished.run.holding(0).data
    made = input_canaries(finished.run.new_student(), like, num=4, num_clients=2, seed=0).data.inputs
    assert made.shape[1:] == (1, 1, TEXT_BYTES)
    assert (made >= 1).float().mean() > 0.9
