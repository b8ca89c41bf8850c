"""The rate of ``data.sampling_rate_hz`` from a user's recordings to the exported file, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run
from tests.made_up_sound import tone, write_wav

SETTINGS = (
    "data.name=folder",
    "data.path=pairs",
    "data.image_size=16",
    "data.clip_s=0.4",
    "student.architecture=audio-50k",
    "teacher.path=teacher.safetensors",
    "distill.batch_size=8",
    "distill.num_anchors=8",
    "federation.num_clients=2",
    "federation.num_rounds=1",
    "federation.local_steps=1",
    "evaluate.num_labels=1",
    "evaluate.num_draws=1",
)


@pytest.fixture
def own_pairs(tiny_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures beside tones of 22 kHz, a tiny teacher, and public pictures."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for half in ("source", "public"):
        (tmp_path / "pairs" / half).mkdir(parents=True)
        for row in range(24):
            picture = Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            picture.save(tmp_path / "pairs" / half / f"{row:02d}.png")
    for row in range(24):
        sound = tone(200.0 + 60.0 * row, rate_hz=22_050) + 0.01 * noise.standard_normal(8820)
        write_wav(tmp_path / "pairs/target" / f"{row:02d}.wav", sound, rate_hz=22_050)
    (tmp_path / "teacher.safetensors").write_bytes(tiny_files[1].read_bytes())
    return tmp_path


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_the_exported_file_takes_the_rate_it_was_trained_at(
    own_pairs: Path, rate_hz: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w for one in (*SETTINGS, f"data.sampling_rate_hz={rate_hz}") for w in ("--set", one)]
    assert run(monkeypatch, "run", "--no-baselines", "--set", "name=heard", *words) == 0
    bundle = own_pairs / "runs" / "heard" / "export"
    report = json.loads((bundle / "report.json").read_text())
    assert report["rate_hz"] == rate_hz
    assert report["image_size"] == round(0.4 * rate_hz)
    assert f"{rate_hz:,} Hz" in (bundle / "MODEL_CARD.md").read_text()
    assert run(monkeypatch, "verify", str(bundle)) == 0
    capsys.readouterr()
    right = write_wav(own_pairs / "right.wav", tone(440.0, rate_hz=rate_hz), rate_hz=rate_hz)
    assert run(monkeypatch, "infer", str(bundle), str(right)) == 0
    wrong = write_wav(own_pairs / "wrong.wav", tone(440.0, rate_hz=8000), rate_hz=8000)
    assert run(monkeypatch, "infer", str(bundle), str(wrong)) == 4
    assert f"has rate_hz=8000; the model takes {rate_hz}" in capsys.readouterr().err
