"""Each loss against a loop written from its formula, and the properties that the formulas have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd import losses
from edgecmd.losses.baselines import l2, nt_xent

B, K, D = 7, 11, 5


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def log_softmax_at(logits: list[float], at: int) -> float:
    return logits[at] - math.log(sum(math.exp(value) for value in logits))


def slow_cmc(s: np.ndarray, t: np.ndarray, tau: float) -> list[float]:
    s, t = norm(s), norm(t)
    out = []
    for i in range(len(s)):
        forward = [float(s[i] @ t[j]) / tau for j in range(len(t))]
        backward = [float(t[i] @ s[j]) / tau for j in range(len(s))]
        out.append(-(log_softmax_at(forward, i) + log_softmax_at(backward, i)) / 2)
    return out


def slow_gcl(s: np.ndarray, t: np.ndarray, source: list[int], tau: float) -> list[float]:
    """From a view to the sources, each once, and from a source to the views of others."""
    s, t, out = norm(s), norm(t), []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if source[j] != source[i]]
        sources = {source[j]: j for j in others}.values()
        forward = [float(s[i] @ t[i]) / tau, *(float(s[i] @ t[j]) / tau for j in sources)]
        backward = [float(t[i] @ s[i]) / tau, *(float(t[i] @ s[j]) / tau for j in others)]
        out.append(-(log_softmax_at(forward, 0) + log_softmax_at(backward, 0)) / 2)
    return out


def slow_cmd(s: np.ndarray, t: np.ndarray, tau: float, teacher_tau: float) -> list[float]:
    s, t = norm(s), norm(t)
    out = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        student = [float(s[i] @ s[j]) / tau for j in others]
        teacher = [float(t[i] @ t[j]) / teacher_tau for j in others]
        out.append(
            -sum(
                math.exp(log_softmax_at(teacher, n)) * log_softmax_at(student, n) for n in range(len(others))
            )
        )
    return out


def slow_cmc_anchored(s: np.ndarray, t: np.ndarray, u: np.ndarray, tau: float) -> list[float]:
    s, t, u = norm(s), norm(t), norm(u)
    out = []
    for i in range(len(s)):
        logits = [float(s[i] @ t[i]) / tau] + [float(s[i] @ u[k]) / tau for k in range(len(u))]
        out.append(-log_softmax_at(logits, 0))
    return out


def slow_cmd_anchored(
    s: np.ndarray, t: np.ndarray, u: np.ndarray, tau: float, teacher_tau: float
) -> list[float]:
    s, t, u = norm(s), norm(t), norm(u)
    out = []
    for i in range(len(s)):
        student = [float(s[i] @ u[k]) / tau for k in range(len(u))]
        teacher = [float(t[i] @ u[k]) / teacher_tau for k in range(len(u))]
        out.append(
            -sum(math.exp(log_softmax_at(teacher, k)) * log_softmax_at(student, k) for k in range(len(u)))
        )
    return out


def slow_nt_xent(a: np.ndarray, b: np.ndarray, tau: float) -> list[float]:
    z = norm(np.concatenate([a, b]))
    n = len(a)
    each = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        logits = [float(z[i] @ z[j]) / tau for j in others]
        each.append(-log_softmax_at(logits, others.index((i + n) % (2 * n))))
    return [(each[i] + each[i + n]) / 2 for i in range(n)]


@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_the_loop_written_from_the_formula(seed: int, tau: float) -> None:
    s, t, u = draw(seed, B, D), draw(seed + 100, B, D), draw(seed + 200, K, D)
    sn, tn, un = s.numpy(), t.numpy(), u.numpy()
    teacher_tau = tau / 2
    pairs = [
        (losses.cmc(s, t, temperature=tau), slow_cmc(sn, tn, tau)),
        (
            losses.cmd(s, t, temperature=tau, teacher_temperature=teacher_tau),
            slow_cmd(sn, tn, tau, teacher_tau),
        ),
        (losses.cmc_anchored(s, t, u, temperature=tau), slow_cmc_anchored(sn, tn, un, tau)),
        (
            losses.cmd_anchored(s, t, u, temperature=tau, teacher_temperature=teacher_tau),
            slow_cmd_anchored(sn, tn, un, tau, teacher_tau),
        ),
        (nt_xent(s, t, temperature=tau), slow_nt_xent(sn, tn, tau)),
        (l2(s, t), list(((norm(sn) - norm(tn)) ** 2).sum(axis=1))),
    ]
    for fast, slow in pairs:
        assert fast.shape == (B,)
        np.testing.assert_allclose(fast.numpy(), slow, rtol=1e-10)


def test_cmc_agrees_with_an_independent_library() -> None:
    from pytorch_metric_learning.losses import NTXentLoss

    s, t = draw(0, B, D), draw(1, B, D)
    oracle = NTXentLoss(temperature=0.2)
    labels = torch.arange(B)
    forward = oracle(s, labels, ref_emb=t, ref_labels=labels.clone())
    backward = oracle(t, labels, ref_emb=s, ref_labels=labels.clone())
    ours = losses.cmc(s, t, temperature=0.2).mean()
    torch.testing.assert_close(ours, (forward + backward) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_uninformative_student_has_the_chance_level(seed: int) -> None:
    constant = torch.ones(B, D, dtype=torch.float64)
    t, u = draw(seed, B, D), draw(seed + 1, K, D)
    level = {
        name: losses.LOSSES[name]().chance_level(batch_size=B, num_anchors=K)
        for name in ("cmd", "cmd-anchored")
    }
    cmd = losses.cmd(constant, t, temperature=0.1, teacher_temperature=0.1)
    assert cmd.tolist() == pytest.approx([level["cmd"]] * B)
    same_anchors = torch.ones(K, D, dtype=torch.float64)
    anchored = losses.cmd_anchored(t, t, same_anchors, temperature=0.1, teacher_temperature=0.1)
    assert anchored.tolist() == pytest.approx([math.log(K)] * B)
    blank = torch.zeros(B, D, dtype=torch.float64)
    assert losses.cmc(blank, t, temperature=0.1).tolist() == pytest.approx([math.log(B)] * B)
    equal = losses.cmc_anchored(blank, t, u, temperature=0.1)
    assert equal.tolist() == pytest.approx([math.log(K + 1)] * B)
    assert nt_xent(constant, constant, temperature=0.1).tolist() == pytest.approx([math.log(2 * B - 1)] * B)
    assert u.shape == (K, D)


def test_chance_levels_by_hand() -> None:
    expected = {
        "cmc": math.log(64),
        "cmd": math.log(63),
        "cmc+cmd": math.log(64) + math.log(63),
        "cmc-anchored": math.log(1025),
        "cmd-anchored": math.log(1024),
        "simclr": math.log(127),
    }
    for name, level in expected.items():
        assert losses.LOSSES[name]().chance_level(batch_size=64, num_anchors=1024) == pytest.approx(level)
    assert losses.L2().chance_level(batch_size=64, num_anchors=1024) is None
    # A quarter of the relations counts a quarter.
    weighted = losses.CMCAndCMD(cmd_weight=0.25).chance_level(batch_size=64, num_anchors=1024)
    assert weighted == pytest.approx(math.log(64) + math.log(63) / 4)


def test_cmd_masks_the_diagonal() -> None:
    """Two examples leave one other each, so both distributions are certain and the loss is zero."""
    s, t = draw(0, 2, D), draw(1, 2, D)
    loss = losses.cmd(s, t, temperature=0.1, teacher_temperature=0.1)
    np.testing.assert_allclose(loss.numpy(), 0.0, atol=1e-12)


def test_cmd_is_invariant_to_a_rotation_and_cmc_is_not() -> None:
    s, t = draw(0, B, D), draw(1, B, D)
    rotation = torch.linalg.qr(draw(2, D, D)).Q
    kept = losses.cmd(s, t, temperature=0.1, teacher_temperature=0.1)
    turned = losses.cmd(s @ rotation, t, temperature=0.1, teacher_temperature=0.1)
    torch.testing.assert_close(kept, turned)
    moved = losses.cmc(s, t, temperature=0.1) - losses.cmc(s @ rotation, t, temperature=0.1)
    assert moved.abs().max() > 0.1


def test_cmd_bounds_the_total_variation_of_relations() -> None:
    """Pinsker and Jensen: mean TV(p_A, p_B) <= sqrt((L_CMD - H(p_A)) / 2)."""
    for seed in range(20):
        s, t = draw(seed, B, D), draw(seed + 50, B, D)
        teacher = losses.log_relations(t, temperature=0.3).exp()
        student = losses.log_relations(s, temperature=0.3).exp()
        variation = (teacher - student).abs().sum(dim=1).mean() / 2
        entropy = -(teacher * teacher.log()).sum(dim=1).mean()
        loss = losses.cmd(s, t, temperature=0.3, teacher_temperature=0.3).mean()
        assert variation <= torch.sqrt((loss - entropy) / 2) + 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_scale_and_order_do_not_matter(seed: int, scale: float) -> None:
    s, t, u = draw(seed, B, D), draw(seed + 1, B, D), draw(seed + 2, K, D)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    functions = [
        lambda a, b: losses.cmc(a, b, temperature=0.2),
        lambda a, b: losses.cmd(a, b, temperature=0.2, teacher_temperature=0.2),
        lambda a, b: losses.cmc_anchored(a, b, u, temperature=0.2),
        lambda a, b: losses.cmd_anchored(a, b, u, temperature=0.2, teacher_temperature=0.2),
        l2,
    ]
    for function in functions:
        plain = function(s, t)
        torch.testing.assert_close(function(scale * s, t), plain)
        torch.testing.assert_close(function(s[order], t[order]), plain[order])


def test_no_other_private_pair_enters_an_anchored_loss() -> None:
    s, t, u = draw(0, B, D), draw(1, B, D), draw(2, K, D)
    poisoned_s, poisoned_t = s.clone(), t.clone()
    poisoned_s[3], poisoned_t[3] = float("nan"), float("nan")
    others = [i for i in range(B) if i != 3]
    for function in (
        lambda a, b: losses.cmc_anchored(a, b, u, temperature=0.1),
        lambda a, b: losses.cmd_anchored(a, b, u, temperature=0.1, teacher_temperature=0.1),
    ):
        assert torch.equal(function(poisoned_s, poisoned_t)[others], function(s, t)[others])
    assert torch.isnan(losses.cmc(poisoned_s, poisoned_t, temperature=0.1)[others]).all()


def test_gradients_reach_the_student_alone() -> None:
    s, t, u = (draw(n, size, D).requires_grad_() for n, size in ((0, B), (1, B), (2, K)))
    total = (
        losses.cmc(s, t, temperature=0.1)
        + losses.cmd(s, t, temperature=0.1, teacher_temperature=0.1)
        + losses.cmc_anchored(s, t, u, temperature=0.1)
        + losses.cmd_anchored(s, t, u, temperature=0.1, teacher_temperature=0.1)
        + l2(s, t)
    )
    total.sum().backward()
    assert s.grad is not None
    assert t.grad is None
    assert u.grad is None


def slow_masked(
    s: np.ndarray, t: np.ndarray, u: np.ndarray, source: list[int], anchor: list[int], tau: float
) -> dict[str, list[float]]:
    """The contrasts as loops that leave out what has the source of i, told by ``source`` and ``anchor``."""
    s, t, u = norm(s), norm(t), norm(u)
    out: dict[str, list[float]] = {"cmc": [], "cmc-anchored": [], "cmc-groups": []}
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i and source[j] != source[i]]
        public = [float(s[i] @ u[k]) / tau for k in range(len(u)) if anchor[k] != source[i]]
        own = float(s[i] @ t[i]) / tau
        forward = [own] + [float(s[i] @ t[j]) / tau for j in others]
        backward = [own] + [float(t[i] @ s[j]) / tau for j in others]
        out["cmc"].append(-(log_softmax_at(forward, 0) + log_softmax_at(backward, 0)) / 2)
        out["cmc-anchored"].append(-log_softmax_at([own, *public], 0))
        out["cmc-groups"].append(-log_softmax_at([*forward, *public], 0))
    return out


@given(
    source=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    anchor=st.lists(st.integers(-4, 3), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_pairs_of_one_source_are_no_negatives(source: list[int], anchor: list[int], seed: int) -> None:
    photographs, public = draw(seed, 4, D), draw(seed + 1, 5, D)
    t, s = photographs[source], draw(seed + 2, 6, D)
    u = torch.stack([photographs[one] if one >= 0 else public[k] for k, one in enumerate(anchor)])
    slow = slow_masked(s.numpy(), t.numpy(), u.numpy(), source, anchor, 0.2)
    assert losses.cmc(s, t, temperature=0.2).tolist() == pytest.approx(slow["cmc"])
    assert losses.cmc_anchored(s, t, u, temperature=0.2).tolist() == pytest.approx(slow["cmc-anchored"])
    assert losses.cmc_groups(s, t, u, temperature=0.2).tolist() == pytest.approx(slow["cmc-groups"])


def test_a_batch_of_one_source_has_nothing_to_learn() -> None:
    s, t = draw(0, B, D).requires_grad_(), draw(1, 1, D).expand(B, D)
    for loss in (losses.cmc(s, t, temperature=0.1), losses.cmc_anchored(s, t, t, temperature=0.1)):
        assert loss.tolist() == [0.0] * B
        (gradient,) = torch.autograd.grad(loss.sum(), s)
        assert torch.isfinite(gradient).all()


def test_the_mask_of_a_pair_does_not_depend_on_the_scale_or_on_another_pair() -> None:
    t, u = draw(0, B, D), draw(1, K, D)
    u[3] = 5.0 * t[2]
    mask = losses.same_source(t, u)
    assert mask.nonzero().tolist() == [[2, 3]]
    for row in range(B):
        assert torch.equal(losses.same_source(t[row : row + 1], u), mask[row : row + 1])


def test_gcl_counts_a_source_once_and_each_view_as_a_negative() -> None:
    """Four pairs, of which two have three views, one two and one a single one."""
    source = [0, 0, 0, 1, 1, 1, 2, 2, 3]
    s, t = draw(1, len(source), D), draw(2, 4, D)[source]
    every = torch.ones(len(source), dtype=torch.bool)
    found = losses.gcl(s, t, every, temperature=0.2)
    assert found.tolist() == pytest.approx(slow_gcl(s.numpy(), t.numpy(), source, 0.2))
    mask = every.clone()
    mask[[1, 8]] = False
    short = [row for row, kept in enumerate(mask.tolist()) if kept]
    s.requires_grad_()
    masked = losses.gcl(s, t, mask, temperature=0.2)
    assert masked[~mask].tolist() == [0.0, 0.0]
    expected = slow_gcl(s.detach()[short].numpy(), t[short].numpy(), [source[row] for row in short], 0.2)
    assert masked[mask].tolist() == pytest.approx(expected)
    masked.sum().backward()
    assert s.grad is not None
    assert not s.grad[~mask].any()
    assert s.grad[mask].any(dim=1).all()


def test_gcl_of_one_view_is_cmc_and_of_one_source_nothing() -> None:
    s, t, every = draw(1, B, D), draw(2, B, D), torch.ones(B, dtype=torch.bool)
    torch.testing.assert_close(losses.gcl(s, t, every, temperature=0.2), losses.cmc(s, t, temperature=0.2))
    alone = losses.gcl(s, t[:1].expand(B, D), every, temperature=0.2)
    assert float(alone.abs().max()) < 1e-12
