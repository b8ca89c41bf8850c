"""Losses of other methods, each against a loop written from its formula."""

import math

import numpy as np
import pytest
import torch

from edgecmd import losses
from edgecmd.losses import baselines

B, K, D = 7, 11, 5


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_seed(s: np.ndarray, t: np.ndarray, u: np.ndarray, tau: float, teacher_tau: float) -> list[float]:
    s, t, u = norm(s), norm(t), norm(u)
    out = []
    for i in range(len(s)):
        candidates = [t[i], *u]
        p = [math.exp((float(t[i] @ c) - 1.0) / teacher_tau) for c in candidates]
        q = [math.exp(float(s[i] @ c) / tau) for c in candidates]
        out.append(-sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True)))
    return out


def slow_crd(s: np.ndarray, t: np.ndarray, tau: float) -> list[float]:
    s, t = norm(s), norm(t)
    num = len(s)
    different = [(i, j) for i in range(num) for j in range(num) if i != j]
    z = num * sum(math.exp(float(t[i] @ t[j]) / tau) for i, j in different) / len(different)
    noise = (num - 1) * (1.0 / num)

    def critic(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(float(a @ b) / tau) / z

    out = []
    for i in range(num):
        total = 0.0
        for one, other in ((s, t), (t, s)):
            positive = critic(one[i], other[i])
            total -= math.log(positive / (positive + noise))
            for j in range(num):
                if j != i:
                    total -= math.log(noise / (critic(one[i], other[j]) + noise))
        out.append(total)
    return out


def slow_socket(s: np.ndarray, t: np.ndarray, u: np.ndarray) -> float:
    s, t, u = (norm(one) * math.sqrt(D) for one in (s, t, u))
    mean, variance, apart = 0.0, 0.0, 0.0
    for d in range(D):
        mean += (s[:, d].mean() - u[:, d].mean()) ** 2
        variance += (s[:, d].var() - u[:, d].var()) ** 2
        apart += sum((float(s[i, d]) - float(t[i, d])) ** 2 for i in range(len(s)))
    return 0.5 * (math.sqrt(mean) + math.sqrt(variance)) + 0.5 * math.sqrt(apart)


@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_the_loop_written_from_the_formula(seed: int) -> None:
    s, t, u = draw(seed, B, D), draw(seed + 100, B, D), draw(seed + 200, K, D)
    sn, tn, un = s.numpy(), t.numpy(), u.numpy()
    for tau, teacher_tau in ((0.2, 0.01), (0.5, 0.3)):
        fast = baselines.seed(s, t, u, temperature=tau, teacher_temperature=teacher_tau)
        np.testing.assert_allclose(fast.numpy(), slow_seed(sn, tn, un, tau, teacher_tau), rtol=1e-9)
        np.testing.assert_allclose(
            baselines.crd(s, t, temperature=tau).numpy(), slow_crd(sn, tn, tau), rtol=1e-9
        )
    np.testing.assert_allclose(baselines.socket(s, t, u).numpy(), [slow_socket(sn, tn, un)] * B, rtol=1e-9)


def test_seed_at_its_own_temperatures_asks_for_the_teacher_s_feature_alone() -> None:
    """The teacher's side is one-hot on its own feature there, so the loss is that of ``cmc-anchored``."""
    s, t, u = draw(0, B, D), draw(1, B, D), draw(2, K, D)
    contrast = losses.cmc_anchored(s, t, u, temperature=baselines.SEED_TEMPERATURE)
    torch.testing.assert_close(baselines.seed(s, t, u), contrast)


def test_an_uninformative_student_has_seed_s_chance_level() -> None:
    one, same = torch.ones(B, D, dtype=torch.float64), torch.ones(K, D, dtype=torch.float64)
    level = losses.SEED().chance_level(batch_size=B, num_anchors=K)
    assert level == pytest.approx(math.log(K + 1))
    assert baselines.seed(draw(0, B, D), one, same).tolist() == pytest.approx([level] * B)


def test_socket_is_zero_where_nothing_is_left_to_match_and_its_gradient_stays_finite() -> None:
    t = draw(0, B, D)
    s = t.clone().requires_grad_()
    loss = baselines.socket(s, t, t)
    assert loss.tolist() == pytest.approx([0.0] * B, abs=1e-12)
    loss.mean().backward()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


def test_crd_stays_finite_where_exponentials_would_overflow() -> None:
    s, t = draw(0, B, D).float(), draw(1, B, D).float()
    assert torch.isfinite(baselines.crd(s, t, temperature=1e-3)).all()


def test_gradients_reach_the_student_alone_and_scale_does_not_matter() -> None:
    s, t, u = (draw(n, size, D).requires_grad_() for n, size in ((0, B), (1, B), (2, K)))
    for loss in (
        lambda a: baselines.seed(a, t, u),
        lambda a: baselines.crd(a, t),
        lambda a: baselines.socket(a, t, u),
    ):
        torch.testing.assert_close(loss(s), loss(3.0 * s))
        loss(s).mean().backward()
    assert s.grad is not None
    assert t.grad is None
    assert u.grad is None
