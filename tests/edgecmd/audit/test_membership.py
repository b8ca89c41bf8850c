"""Membership inference: a planted leak is found, and a model that knows nothing gives one half."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.audits.risk.candidates import Pool, grouped, make_pool, pair_scores
from edgecmd.audits.risk.membership import (
    Shadows,
    attack,
    curve,
    grouped_interval,
    offline_a,
    placements,
)
from edgecmd.audits.risk.shadows import (
    ShadowRecipe,
    cache_key,
    left_out,
    random_student,
    read_scores,
    shadow_scores,
)
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.evaluation.evaluate import embedder
from edgecmd.evaluation.metrics import unit_rows
from tests.tiny_federation import run_of, task_of, tiny_config, write_pairs

RECIPE = ShadowRecipe(num_shadows=4, num_steps=3, batch_size=16)
NUM = 400


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("membership")
    return tiny_config(write_pairs(folder / "pairs.npz"), folder)


def made_up_pool(num: int = NUM, *, seed: int = 0) -> Pool:
    """Noise pairs whose features lie in eight dimensions; every second pair is a member."""
    noise = np.random.default_rng(seed)
    return Pool(
        target=noise.integers(0, 256, (num, 4, 4, 1), dtype=np.uint8),
        teacher=unit_rows(noise.normal(size=(num, 8)).astype(np.float32)),
        anchors=unit_rows(noise.normal(size=(16, 8)).astype(np.float32)),
        temperature=0.1,
        mirrored=False,
        member=np.arange(num) % 2 == 0,
        group=np.arange(num),
    )


def lookup_table(pool: Pool, known: np.ndarray, *, seed: int):
    """A "model" that answers the teacher feature of a drawing that it knows, and noise for others."""
    memory = {pool.target[row].tobytes(): pool.teacher[row] for row in np.flatnonzero(known)}
    noise = np.random.default_rng(seed)

    def embed(images: np.ndarray) -> np.ndarray:
        others = unit_rows(noise.normal(size=(len(images), pool.teacher.shape[1])).astype(np.float32))
        return np.stack([memory.get(one.tobytes(), other) for one, other in zip(images, others)])

    return embed


def made_up_shadows(pool: Pool, *, num: int = 6) -> Shadows:
    out = left_out(pool.group, replace(RECIPE, num_shadows=num))
    scores = [pair_scores(lookup_table(pool, ~out[k], seed=k), pool) for k in range(num)]
    return Shadows(scores=np.stack(scores), out=out)


def test_a_model_that_memorised_its_members_is_found_out() -> None:
    pool = made_up_pool()
    observed = pair_scores(lookup_table(pool, pool.member, seed=99), pool)
    curves = attack(observed, made_up_shadows(pool), member=pool.member, group=pool.group)
    for name, one in curves.items():
        assert one.auc > 0.95, name
        assert one.low > 0.9, name
    assert curves["lira"].tpr[1] > 0.5


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    pool = made_up_pool()
    observed = pair_scores(lookup_table(pool, np.zeros(NUM, dtype=bool), seed=99), pool)
    for one in attack(observed, made_up_shadows(pool), member=pool.member, group=pool.group).values():
        assert one.chance()
        assert abs(one.auc - 0.5) < 0.1


def test_the_order_of_the_pairs_changes_nothing() -> None:
    pool, noise = made_up_pool(60), np.random.default_rng(5)
    shadows, observed = made_up_shadows(pool), noise.normal(size=60)
    order = noise.permutation(60)
    mixed = Shadows(scores=shadows.scores[:, order], out=shadows.out[:, order])
    first = attack(observed, shadows, member=pool.member, group=pool.group)
    second = attack(observed[order], mixed, member=pool.member[order], group=pool.group[order])
    for name, one in first.items():
        assert one.auc == pytest.approx(second[name].auc, abs=1e-12)
        assert (one.low, one.high) == pytest.approx((second[name].low, second[name].high), abs=1e-12)
        assert one.tpr == second[name].tpr


def test_the_score_is_the_logit_against_the_anchors() -> None:
    pool = replace(made_up_pool(3), temperature=0.5)
    z = unit_rows(np.random.default_rng(1).normal(size=(3, 8)))
    expected = []
    for row in range(3):
        logits = [float(z[row] @ anchor) / 0.5 for anchor in pool.anchors]
        expected.append(float(z[row] @ pool.teacher[row]) / 0.5 - np.log(np.sum(np.exp(logits))))
    assert pair_scores(lambda _: z, pool) == pytest.approx(expected, abs=1e-6)


def test_mirror_images_are_asked_about_where_the_student_saw_them() -> None:
    pool, asked = made_up_pool(3), []

    def embed(images: np.ndarray) -> np.ndarray:
        asked.append(images)
        return pool.teacher

    pair_scores(embed, replace(pool, mirrored=True))
    assert len(asked) == 2
    assert (asked[1][:, :, ::-1] == asked[0]).all()


# DeLong's components by counting, and intervals that count groups.


def test_placements_count_who_is_placed_rightly() -> None:
    score, member = np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    # 0.9 beats both others; 0.4 ties one and beats one.
    # The other 0.4 is below one member and ties one; 0.1 is below both.
    assert placements(score, member).tolist() == [1.0, 0.75, 0.75, 1.0]


def test_single_pairs_give_delongs_interval() -> None:
    noise = np.random.default_rng(2)
    member = np.arange(80) < 30
    score = noise.normal(size=80) + member
    wins = (score[member][:, None] > score[~member][None]).astype(float)
    area, rows, columns = wins.mean(), wins.mean(axis=1), wins.mean(axis=0)
    half = 1.959964 * np.sqrt(rows.var(ddof=1) / 30 + columns.var(ddof=1) / 50)
    found = grouped_interval(score, member, group=np.arange(80))
    assert found == pytest.approx((area - half, area + half), abs=1e-6)


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_copies_of_a_pair_are_no_new_witnesses(seed: int, copies: int) -> None:
    noise = np.random.default_rng(seed)
    member, group = np.arange(40) < 20, np.arange(40)
    score = noise.normal(size=40)
    once = grouped_interval(score, member, group=group)
    often = grouped_interval(
        np.repeat(score, copies), np.repeat(member, copies), group=np.repeat(group, copies)
    )
    assert often == pytest.approx(once, abs=1e-9)


def test_a_group_that_is_on_both_sides() -> None:
    """With one member and one other in each group whose scores are equal, the area cannot vary at all."""
    score = np.repeat(np.arange(10.0), 2)
    member = np.tile([True, False], 10)
    low, high = grouped_interval(score, member, group=np.repeat(np.arange(10), 2))
    assert (low, high) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_one_group_is_not_enough() -> None:
    with pytest.raises(DataError, match="two groups"):
        grouped_interval(np.arange(4.0), np.array([True, True, False, False]), group=np.array([0, 0, 1, 2]))


def test_coverage_at_chance_with_groups() -> None:
    """Pairs of a concept share their difficulty; the interval holds one half in some 95 of 100 draws."""
    noise, hits = np.random.default_rng(3), 0
    group = np.repeat(np.arange(120), 2)
    for _ in range(200):
        score = np.repeat(noise.normal(size=120), 2) + 0.3 * noise.normal(size=240)
        hits += curve(score, np.repeat(noise.permutation(120) < 40, 2), group=group).chance()
    assert 180 <= hits <= 198


def test_rmia_s_a_is_recovered() -> None:
    noise = np.random.default_rng(4)
    unseen = noise.uniform(0.05, 0.5, 300)
    out = np.stack([np.ones(300, bool), np.zeros(300, bool)])
    reference = np.stack([unseen, 0.8 * unseen + 0.2])
    assert offline_a(reference, out) == pytest.approx(0.8)
    assert offline_a(np.ones((2, 300)), out) == 1.0


# Shadow students.


def test_every_pair_is_left_out_by_half_of_the_shadows_and_concepts_stay_together() -> None:
    group = np.array([0, 0, 1, 2, 2, 2])
    out = left_out(group, replace(RECIPE, num_shadows=6))
    assert (out.sum(axis=0) == 3).all()
    assert (out[:, 0] == out[:, 1]).all()
    assert (out[:, 3] == out[:, 5]).all()
    assert (out != left_out(group, replace(RECIPE, num_shadows=6, seed=1))).any()


@pytest.mark.parametrize("num", [2, 5])
def test_an_odd_or_tiny_number_of_shadows_is_refused(num: int) -> None:
    with pytest.raises(ConfigError, match=f"--shadows={num}"):
        ShadowRecipe(num_shadows=num)


def test_names_make_groups_and_no_name_makes_one_of_its_own() -> None:
    assert grouped([["a", ""], ["b", "a", ""]]).tolist() == [0, 1, 2, 0, 3]


def test_the_pool_of_a_run(config: RunConfig) -> None:
    pool = make_pool("concepts", run_of(config))
    assert len(pool) == 60
    assert len(np.unique(pool.group)) == 60
    assert 0 < pool.member.sum() < 60
    alone = make_pool("pairs", run_of(config))
    assert len(alone) == pool.member.sum()
    assert (alone.target == pool.target[pool.member]).all()


def test_the_built_in_set_is_split_by_concept() -> None:
    pool = make_pool("concepts", run_of(tiny_emoji()))
    members, others = set(pool.group[pool.member]), set(pool.group[~pool.member])
    assert not members & others
    assert (len(pool), int(pool.member.sum())) == (2951, 2017)
    # The two houses drew most concepts both.
    assert len(members) + len(others) < 0.6 * len(pool)


def tiny_emoji() -> RunConfig:
    from edgecmd.config.reader import load_config

    return load_config(None, ["data.image_size=16", "distill.num_anchors=16", "distill.anchors=random"])


def test_a_loss_without_a_teacher_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="simclr"):
        make_pool("concepts", run_of(replace(config, distill=replace(config.distill, loss="simclr"))))


def scores_of(config: RunConfig, folder: Path, *, jobs: int, recipe: ShadowRecipe = RECIPE) -> Shadows:
    return shadow_scores(run_of(config), "concepts", recipe, jobs=jobs, folder=folder, tick=lambda *_: None)


@pytest.mark.usefixtures("workers")
def test_shadows_do_not_depend_on_the_number_of_processes(config: RunConfig, tmp_path: Path) -> None:
    one, two = (scores_of(config, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert one.scores.tobytes() == two.scores.tobytes()
    assert (one.out == two.out).all()


def test_shadows_are_kept_and_torn_ones_made_again(config: RunConfig, tmp_path: Path) -> None:
    first = scores_of(config, tmp_path, jobs=1)
    files = sorted(tmp_path.glob("shadows-*/*.npy"))
    assert len(files) == 4
    before = [path.stat().st_mtime_ns for path in files]
    files[2].write_bytes(files[2].read_bytes()[:50])
    ticks: list[tuple[int, int]] = []
    again = shadow_scores(
        run_of(config), "concepts", RECIPE, jobs=1, folder=tmp_path, tick=lambda *one: ticks.append(one)
    )
    assert ticks == [(3, 4), (4, 4)]
    assert again.scores.tobytes() == first.scores.tobytes()
    after = [path.stat().st_mtime_ns for path in files]
    assert [a == b for a, b in zip(before, after)] == [True, True, False, True]


def test_the_key_of_the_cache_follows_what_scores_depend_on(config: RunConfig) -> None:
    pool = make_pool("concepts", run_of(config))
    key = cache_key(run_of(config), pool, RECIPE)
    assert key == cache_key(run_of(replace(config, name="other", seed=5)), pool, RECIPE)
    distill = replace(config.distill, temperature=0.2)
    for other in (
        cache_key(run_of(replace(config, distill=distill)), pool, RECIPE),
        cache_key(run_of(config), replace(pool, anchors=pool.anchors[:-1]), RECIPE),
        cache_key(run_of(config), pool, replace(RECIPE, seed=1)),
    ):
        assert other != key


def test_scores_of_another_shape_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert read_scores(tmp_path / "x.npy", num=4) is None
    assert read_scores(tmp_path / "none.npy", num=4) is None
    found = read_scores(tmp_path / "x.npy", num=3)
    assert found is not None
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_a_random_student_through_the_whole_pipeline_is_at_chance(config: RunConfig, tmp_path: Path) -> None:
    shadows = scores_of(config, tmp_path, jobs=1)
    pool = make_pool("concepts", run_of(config))
    student = random_student(run_of(config), pool, seed=0, index=4)
    assert not any(
        torch.equal(a, b)
        for a, b in zip(
            student.projector.parameters(),
            random_student(run_of(config), pool, seed=0, index=0).projector.parameters(),
        )
        if a.dim() > 1
    )
    for one in attack(
        pair_scores(embedder(student, task_of(config)), pool), shadows, member=pool.member, group=pool.group
    ).values():
        assert one.chance()
