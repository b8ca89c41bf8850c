"""Targets that are no pictures: how they are told apart, seen by a student, moved, and shown."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.augment import augment
from edgecmd.data.modalities.depth import MISSING, augment_depth
from edgecmd.data.modalities.table import as_pictures, input_shape, modality_of, target_input
from edgecmd.data.modalities.wave import augment_wave
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation.metrics import embed_target
from edgecmd.models.students import build_student

IMAGE = np.zeros((2, 16, 16, 3), dtype=np.uint8)
DEPTH = np.full((2, 16, 16, 1), 2000, dtype=np.uint16)
WAVE = np.zeros((2, 4000), dtype=np.int16)


def coins(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("target", "kind", "shape"),
    [(IMAGE, "image", (3, 16, 16)), (DEPTH, "depth", (2, 16, 16)), (WAVE, "wave", (1, 1, 4000))],
)
def test_a_modality_is_told_by_its_type(target: np.ndarray, kind: str, shape: tuple[int, int, int]) -> None:
    assert modality_of(target).name == kind
    assert input_shape(target) == shape
    assert target_input(target, offset=0.5, scale=0.5).shape == (2, *shape)
    assert len(PairedData(source=IMAGE, target=target).take(np.array([1]))) == 1


@pytest.mark.parametrize("target", [IMAGE.astype(float), np.repeat(DEPTH, 3, axis=3), WAVE[0], WAVE[:, None]])
def test_anything_else_is_refused_with_what_is_allowed(target: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint16 millimetres.*int16 samples"):
        PairedData(source=IMAGE, target=target)


def test_missing_depth_is_zero_in_both_channels_and_never_a_distance() -> None:
    depth = np.array([[[[0]], [[500]], [[2000]], [[3500]]]], dtype=np.uint16)
    scaled, measured = target_input(depth, offset=9.0, scale=9.0)[0, :, :, 0].tolist()
    # (metres - 2) / 1.5 by hand; offset and scale are for pictures.
    assert scaled == [0.0, -1.0, 0.0, 1.0]
    assert measured == [0.0, 1.0, 1.0, 1.0]


def test_a_recording_is_its_share_of_full_scale() -> None:
    wave = np.array([[-32768, 0, 16384]], dtype=np.int16)
    assert target_input(wave, offset=1.0, scale=1.0).flatten().tolist() == [-1.0, 0.0, 0.5]


def test_moving_a_depth_map_makes_up_no_distance() -> None:
    depth = np.random.default_rng(0).choice(np.array([0, 1000, 3000], dtype=np.uint16), (8, 16, 16, 1))
    seen = target_input(depth, offset=0.0, scale=1.0)
    moved = augment_depth(seen, strength=1.0, generator=coins())
    assert not torch.equal(moved, seen)
    assert set(moved[:, 0].unique().tolist()) <= set(seen[:, 0].unique().tolist())
    assert torch.equal(moved[:, 1], (moved[:, 1] > 0).float())
    assert bool((moved[:, 0][moved[:, 1] == 0] == 0).all())


def burst(hz: float, *, rate_hz: int = 8000) -> torch.Tensor:
    """64 recordings of a second with a tone from 0.4 to 0.6 s, as students see them."""
    seconds = np.arange(rate_hz) / rate_hz
    shares = np.sin(2 * np.pi * hz * seconds) * ((seconds > 0.4) & (seconds < 0.6))
    wave = np.repeat(np.rint(16384 * shares).astype(np.int16)[None], 64, axis=0)
    return target_input(wave, offset=0.0, scale=1.0)


def test_a_view_of_a_recording_is_moved_faster_or_slower_louder_or_softer() -> None:
    view = augment_wave(burst(600.0), strength=1.0, generator=coins())[:, 0, 0]
    found = np.fft.rfftfreq(8000, 1 / 8000)[np.abs(np.fft.rfft(view.numpy(), axis=1)).argmax(axis=1)]
    # exp(0.15) = 1.16 by hand; a line of a fifth of a second is 5 Hz wide.
    assert 600 / 1.17 - 5 < found.min() < 560
    assert 640 < found.max() < 600 * 1.17 + 5
    sound = view.abs() > 0.5 * view.abs().amax(dim=1, keepdim=True)
    start = sound.int().argmax(dim=1) / 8000
    # (0.4 +- 0 to 0.1 s) at a speed of 0.86 to 1.16.
    assert 0.4 / 1.17 - 0.1 < float(start.min()) < 0.35
    assert 0.45 < float(start.max()) < 0.4 * 1.17 + 0.1 + 0.01
    # Tilt by up to a half and gain by up to exp(0.35), on a tone of half of full scale.
    peak = view.abs().amax(dim=1)
    assert 0.5 * 0.5 * 0.7 < float(peak.min()) < float(peak.max()) < 0.5 * 1.5 * 1.42 * 1.2


def test_noise_is_30_to_60_db_below_the_recordings_own_peak() -> None:
    loud, soft = burst(600.0), 0.01 * burst(600.0)
    for wave in (loud, soft):
        view = augment_wave(wave, strength=1.0, generator=coins())[:, 0, 0]
        share = view[:, :1500].std(dim=1) / view.abs().amax(dim=1)
        assert 0.7e-3 < float(share.min()) < 3e-3
        assert 1e-2 < float(share.max()) < 10**-1.4


def test_reading_between_samples_by_hand() -> None:
    from edgecmd.data.modalities.wave import _read_at

    wave = torch.tensor([[1.0, 3.0, 5.0]])
    place = torch.tensor([[-0.1, 0.0, 0.5, 1.75, 2.0, 2.1]])
    assert _read_at(wave.expand(1, 3), place).tolist() == [[0.0, 1.0, 2.0, 4.5, 5.0, 0.0]]


@pytest.mark.parametrize("modality", ["image", "depth", "wave"])
def test_views_of_strength_zero_are_the_batch_and_each_row_has_its_own(modality: str) -> None:
    make: Callable[[], torch.Tensor] = lambda: torch.rand(  # noqa: E731
        (4, 1, 1, 400) if modality == "wave" else (4, 2, 16, 16), generator=coins(1)
    )
    assert torch.equal(augment(modality, make(), strength=0.0, generator=coins()), make())
    first, again = (augment(modality, make(), strength=1.0, generator=coins(3)) for _ in range(2))
    assert torch.equal(first, again)
    changed = make()
    changed[2] = 0.7
    other = augment(modality, changed, strength=1.0, generator=coins(3))
    rows = torch.tensor([0, 1, 3])
    assert torch.equal(first[rows], other[rows])


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match="Allowed: depth, image, text, wave"):
        augment("video", torch.zeros(1, 1, 2, 2), strength=1.0, generator=coins())


@pytest.mark.parametrize(
    ("architecture", "target"),
    [("ws-50k", DEPTH), ("audio-50k", np.tile(np.arange(4000), (2, 1)).astype(np.int16))],
)
def test_students_embed_every_modality(architecture: str, target: np.ndarray) -> None:
    channels = input_shape(target)[0]
    student = build_student(architecture, in_channels=channels, embedding_dim=8, generator=coins())
    embedding = embed_target(student, target, offset=0.0, scale=1.0)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-6)


def test_what_is_no_picture_can_be_looked_at() -> None:
    assert as_pictures(IMAGE) is IMAGE
    depth = np.array([[[[0]], [[200]], [[6000]], [[9000]]]], dtype=np.uint16)
    assert as_pictures(depth)[0, :, 0].tolist() == [list(MISSING), [255] * 3, [0] * 3, [0] * 3]
    sound = as_pictures(WAVE)
    assert (sound.dtype, sound.ndim, sound.shape[3]) == (np.uint8, 4, 1)
