"""The simulated depth sensor: statistics of noise and holes, and what it must leave alone."""

import numpy as np
import pytest

from edgecmd.core.errors import ConfigError
from edgecmd.datasets.sensor import at_edges, simulate_sensor
from edgecmd.settings import DataConfig


def flat(millimetres: int, num: int = 4) -> np.ndarray:
    return np.full((num, 64, 64, 1), millimetres, dtype=np.uint16)


def test_off_means_untouched() -> None:
    exact = flat(1000)
    assert simulate_sensor(exact, noise=0.0, holes=0.0) is exact


@pytest.mark.parametrize(("metres", "expected_mm"), [(1, 10.0), (2, 40.0), (4, 160.0)])
def test_noise_grows_with_the_square_of_the_distance(metres: int, expected_mm: float) -> None:
    sensed = simulate_sensor(flat(1000 * metres), noise=10.0, holes=0.0).astype(np.float64)
    # 16,384 draws: the standard deviation is known to 1.7% at three sigma, the mean to 2.3% of it.
    assert sensed.std() == pytest.approx(expected_mm, rel=0.03)
    assert sensed.mean() == pytest.approx(1000 * metres, abs=0.03 * expected_mm)


def test_edges_by_hand() -> None:
    metres = np.full((5, 6), 2.0, dtype=np.float32)
    metres[:, 3:] = 1.0
    metres[0, 0] = 0.0
    metres[4, 1] = 2.05
    expected = np.zeros((5, 6), dtype=bool)
    expected[:, 2:4] = True
    expected[0, 1] = expected[1, 0] = True
    assert at_edges(metres).tolist() == expected.tolist()


def test_a_surface_seen_sideways_counts_as_an_edge() -> None:
    steep = np.tile(np.linspace(1.0, 2.0, 9, dtype=np.float32), (4, 1))
    gentle = np.tile(np.linspace(2.0, 2.5, 16, dtype=np.float32), (4, 1))
    assert at_edges(steep).all()
    assert not at_edges(gentle).any()


def test_holes_lie_at_edges_and_are_as_many_as_asked() -> None:
    exact = flat(2000, num=20)
    exact[:, :, ::2] = 1000
    sensed = simulate_sensor(exact, noise=0.0, holes=0.3)
    # Every pixel is at an edge: 81,920 draws.
    assert (sensed == 0).mean() == pytest.approx(0.3, abs=0.006)
    assert (sensed[sensed > 0] == exact[sensed > 0]).all()
    assert (simulate_sensor(flat(2000), noise=0.0, holes=1.0) == 2000).all()


def test_missing_stays_missing_and_noise_makes_nothing_missing() -> None:
    exact = flat(1)
    exact[:, :10] = 0
    sensed = simulate_sensor(exact, noise=1000.0, holes=0.0)
    assert ((sensed == 0) == (exact == 0)).all()
    far = simulate_sensor(flat(65_535), noise=100.0, holes=0.0)
    assert far.min() > 0


def test_it_follows_from_the_settings_and_each_map_alone() -> None:
    exact = flat(1500, num=6)
    exact[:, 20:40, 20:40] = 900
    whole = simulate_sensor(exact, noise=2.0, holes=0.5)
    assert np.array_equal(whole, simulate_sensor(exact, noise=2.0, holes=0.5))
    assert np.array_equal(whole[:3], simulate_sensor(exact[:3], noise=2.0, holes=0.5))
    assert not np.array_equal(whole[0], whole[1])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"data.depth_holes=1.5 is outside"):
        DataConfig(depth_holes=1.5)
    with pytest.raises(ConfigError, match=r"data.depth_noise=-1"):
        DataConfig(depth_noise=-1.0)
