"""Losses of other methods, each against a loop written from its formula."""

import cmath
import math

import numpy as np
import pytest
import torch

from edgecmd import losses
from edgecmd.losses import baselines
from edgecmd.settings import DistillConfig

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


def shares(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def slow_relations(
    s: np.ndarray, t: np.ndarray, tau: float, teacher_tau: float
) -> list[tuple[list[float], list[float], list[float]]]:
    """Of each example the teacher's shares, and the student's from both sides."""
    s, t = norm(s), norm(t)
    return [
        (
            shares([float(t[i] @ t[j]) / teacher_tau for j in range(len(t))]),
            shares([float(s[i] @ t[j]) / tau for j in range(len(t))]),
            shares([float(t[i] @ s[j]) / tau for j in range(len(t))]),
        )
        for i in range(len(s))
    ]


def slow_dark(s: np.ndarray, t: np.ndarray, tau: float, teacher_tau: float, weight: float) -> list[float]:
    out = []
    for i, (p, there, back) in enumerate(slow_relations(s, t, tau, teacher_tau)):
        total = 0.0
        for q in (there, back):
            total -= math.log(q[i]) / 2
            for j in range(len(p)):
                total -= (1.0 if j == i else weight) * p[j] * math.log(q[j]) / 2
        out.append(total)
    return out


def slow_clip_rd(s: np.ndarray, t: np.ndarray, tau: float, teacher_tau: float) -> list[float]:
    """The authors' terms, with ``t`` for both encoders of the teacher and the student's of the source."""
    out = []
    distances = ((norm(s) - norm(t)) ** 2).mean(axis=1)
    of_teacher, of_student = (slow_relations(s, t, tau, one) for one in (teacher_tau, tau))
    for i, (p, there, back) in enumerate(of_teacher):
        own = of_student[i][0]

        def divergence(a: list[float], b: list[float]) -> float:
            return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

        task = vertical_contrast = -(math.log(there[i]) + math.log(back[i])) / 2
        interactive = -math.log(there[i]) / 2
        horizontal = (divergence(p, there) + divergence(p, back)) / 2
        vertical = (divergence(own, there) + divergence(own, back)) / 2
        cross = (divergence(own, there) + divergence(own, back)) / 4
        relations = horizontal + vertical + cross
        out.append(task + vertical_contrast + interactive + 2000.0 * float(distances[i]) + relations)
    return out


def slow_band(row: np.ndarray, kept: list[int]) -> list[float]:
    size = len(row)
    spectrum = {
        k: sum(float(row[n]) * cmath.exp(-2j * math.pi * k * n / size) for n in range(size)) for k in kept
    }
    band = [
        sum(value * cmath.exp(2j * math.pi * k * n / size) for k, value in spectrum.items()).real / size
        for n in range(size)
    ]
    length = math.sqrt(sum(value**2 for value in band))
    return [value / length for value in band]


def slow_fd_cmkd(s: np.ndarray, t: np.ndarray, low: list[int], high: list[int]) -> list[float]:
    out = []
    for mine, other in zip(s, t, strict=True):
        total = 0.0
        for a, b in zip(slow_band(mine, low), slow_band(other, low), strict=True):
            total += (a - b) ** 2
        for a, b in zip(slow_band(mine, high), slow_band(other, high), strict=True):
            rough = [math.copysign(math.log(1 + abs(value)), value) for value in (a, b)]
            total += (rough[0] - rough[1]) ** 2
        out.append(total / len(mine))
    return out


@pytest.mark.parametrize("seed", range(3))
def test_relations_equal_the_loop_written_from_the_formula(seed: int) -> None:
    s, t = draw(seed, B, D), draw(seed + 100, B, D)
    sn, tn = s.numpy(), t.numpy()
    for tau, teacher_tau, weight in ((0.2, 0.1, 2.0), (0.5, 0.3, -0.8)):
        temperatures = {"temperature": tau, "teacher_temperature": teacher_tau}
        np.testing.assert_allclose(
            baselines.dark(s, t, **temperatures, off_diagonal=weight).numpy(),
            slow_dark(sn, tn, tau, teacher_tau, weight),
            rtol=1e-9,
        )
        np.testing.assert_allclose(
            baselines.clip_rd(s, t, **temperatures).numpy(),
            slow_clip_rd(sn, tn, tau, teacher_tau),
            rtol=1e-9,
        )


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [
        (5, [1, 4], [2, 3]),
        (8, [1, 2, 6, 7], [3, 4, 5]),
        (12, [1, 2, 3, 9, 10, 11], [4, 5, 6, 7, 8]),
    ],
)
def test_frequencies_equal_the_transform_written_as_a_loop(
    size: int, low: list[int], high: list[int]
) -> None:
    s, t = draw(3, B, size), draw(4, B, size)
    np.testing.assert_allclose(
        baselines.fd_cmkd(s, t).numpy(), slow_fd_cmkd(s.numpy(), t.numpy(), low, high), rtol=1e-9
    )
    # A constant is neither a low frequency nor a high one, and a feature has no loss against itself.
    torch.testing.assert_close(baselines.fd_cmkd(s, s + 7.0), torch.zeros(B, dtype=s.dtype))


def test_relations_of_a_student_whose_similarities_are_all_equal() -> None:
    """Zeros have similarity 0 to all; orthogonal teacher features have a share of e / (e + 3) at T = 1."""
    zeros, t = torch.zeros(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    own = math.e / (math.e + 3)
    temperatures = {"temperature": 1.0, "teacher_temperature": 1.0}
    dark = baselines.dark(zeros, t, **temperatures, off_diagonal=-0.8)
    assert dark.tolist() == pytest.approx([math.log(4) * (1 + own - 0.8 * (1 - own))] * 4)
    entropy = -own * math.log(own) - (1 - own) * math.log((1 - own) / 3)
    found = baselines.clip_rd(zeros, t, **temperatures)
    level = 2.5 * math.log(4) + 2.5 * (math.log(4) - entropy) + 2000 / 4
    assert found.tolist() == pytest.approx([level] * 4)
    for loss in (losses.DARK(), losses.CLIPRD(), losses.FDCMKD()):
        assert loss.chance_level(batch_size=4, num_anchors=1) is None


def test_another_pair_of_the_same_source_is_no_relation() -> None:
    """The loss of a pair is what it is without the other one."""
    s, t = draw(5, B, D), draw(6, B, D)
    twin = torch.cat([s, draw(7, 1, D)]), torch.cat([t, 2.0 * t[:1]])
    temperatures = {"temperature": 0.3, "teacher_temperature": 0.2}
    for weight in (2.0, -0.8):
        dark = baselines.dark(*twin, **temperatures, off_diagonal=weight)
        alone = baselines.dark(s, t, **temperatures, off_diagonal=weight)
        torch.testing.assert_close(dark[0], alone[0])
    torch.testing.assert_close(
        baselines.clip_rd(*twin, **temperatures)[0], baselines.clip_rd(s, t, **temperatures)[0]
    )
    both = s[:1].expand(2, D).clone().requires_grad_(), t[:1].expand(2, D)
    (
        baselines.dark(*both, **temperatures, off_diagonal=2.0) + baselines.clip_rd(*both, **temperatures)
    ).sum().backward()
    assert both[0].grad is not None
    assert torch.isfinite(both[0].grad).all()


def test_dark_s_weight_falls_in_a_line_and_follows_from_the_place_alone() -> None:
    """2 at the start, 0.6 at the middle, -0.8 at the end; asking for one place changes no other."""
    s, t, u = draw(0, B, D), draw(1, B, D), draw(2, K, D)
    loss = losses.DARK(temperature=0.2, teacher_temperature=0.3)
    for share, weight in ((1.0, -0.8), (0.5, 0.6), (0.0, 2.0)):
        expected = slow_dark(s.numpy(), t.numpy(), 0.2, 0.3, weight)
        np.testing.assert_allclose(loss.at(share)(s, t, u).numpy(), expected, rtol=1e-9)
    assert losses.DARK.anneals()
    assert [name for name, one in losses.LOSSES.items() if one.anneals()] == ["dark"]


def test_seed_and_crd_take_another_temperature_than_their_authors_where_one_is_given() -> None:
    s, t, u = draw(0, B, D), draw(1, B, D), draw(2, K, D)
    own = losses.loss_of(DistillConfig(loss="crd", temperature=0.5))
    torch.testing.assert_close(own(s, t, u), baselines.crd(s, t, temperature=0.07))
    for name, slow in (
        ("crd", slow_crd(s.numpy(), t.numpy(), 0.3)),
        ("seed", slow_seed(s.numpy(), t.numpy(), u.numpy(), 0.3, 1e-4)),
    ):
        given = losses.loss_of(DistillConfig(loss=name, baseline_temperature=0.3))
        np.testing.assert_allclose(given(s, t, u).numpy(), slow, rtol=1e-9)


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
        lambda a: baselines.dark(a, t, temperature=0.1, teacher_temperature=0.1, off_diagonal=-0.8),
        lambda a: baselines.clip_rd(a, t, temperature=0.1, teacher_temperature=0.1),
        lambda a: baselines.fd_cmkd(a, t),
    ):
        torch.testing.assert_close(loss(s), loss(3.0 * s))
        loss(s).mean().backward()
    assert s.grad is not None
    assert t.grad is None
    assert u.grad is None
