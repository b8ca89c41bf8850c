"""Depth maps and recordings: exact where they must be, alike in torch and in the file, rates told apart."""

import wave

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.depth import depth_input
from edgecmd.data.modalities.log_mel import WINDOW_SAMPLES, fourier_basis
from edgecmd.data.modalities.wave import wave_input
from export.bundle import Options, export_bundle
from export.device.infer import main
from export.device.reading import InferError
from export.device.student import Student, check
from export.graph.deployable import Deployable
from export.graph.front_depth import DepthFrontEnd, nearest
from export.graph.front_wave import WaveFrontEnd
from export.graph.frontends import FRONT_ENDS, front_end_of
from export.graph.spec import ExportSpec
from export.profiles.quantise import quantised_layers
from export.trust.gate import gate

SIDE, SAMPLES, DIM = 32, 4000, 16
LOG_MEL_LIMIT_BYTES = 100_000


def spec_of(front_end: str) -> ExportSpec:
    depth = front_end == "depth16"
    return ExportSpec(
        architecture="ws-50k" if depth else "audio-50k",
        image_size=SIDE if depth else SAMPLES,
        channels=2 if depth else 1,
        embedding_dim=DIM,
        offset=0.0,
        scale=1.0,
        license="Apache-2.0",
        front_end=front_end,
        rate_hz=0 if depth else 8000,
    )


def depth_maps(num: int, height: int = SIDE, width: int = SIDE, *, seed: int = 0) -> np.ndarray:
    coins = numpy_generator(seed, "test-depth")
    maps = coins.integers(1, 6000, (num, height, width, 1), dtype=np.uint16)
    maps[coins.random(maps.shape) < 0.3] = 0
    return maps


def waves(num: int, length: int = SAMPLES) -> np.ndarray:
    coins = numpy_generator(0, "test-wave")
    return coins.integers(-20000, 20000, (num, length), dtype=np.int16)


@pytest.fixture(scope="module")
def folder(make, tmp_path_factory):
    """Bundle of a depth or audio student."""
    made = {}

    def get(front_end):
        if front_end not in made:
            spec, path = spec_of(front_end), tmp_path_factory.mktemp("bundle") / front_end
            student = make.student(spec.architecture, channels=spec.channels)
            inputs = depth_maps(5) if front_end == "depth16" else waves(5)
            export_bundle(
                student,
                path,
                spec=spec,
                probe_images=inputs,
                task=make.task,
                options=Options(profiles=("fp32", "w8")),
            )
            made[front_end] = path
        return made[front_end]

    return get


def reference(make, front_end):
    spec = spec_of(front_end)
    return Deployable(make.student(spec.architecture, channels=spec.channels).eval(), spec).eval()


def test_every_modality_has_a_front_end():
    from edgecmd.data.modalities.table import MODALITIES

    plain = {front_end_of(one, dense=False) for one in MODALITIES.values()}
    dense = {front_end_of(one, dense=True) for one in MODALITIES.values() if one.motion}
    assert plain | dense == set(FRONT_ENDS)


def test_pixels_under_the_centres_by_hand():
    maps = np.arange(1, 17, dtype=np.uint16).reshape(1, 4, 4, 1)
    assert nearest(maps, 2, 2)[0, :, :, 0].tolist() == [[6, 8], [14, 16]]
    assert nearest(maps, 4, 4)[0].tolist() == maps[0].tolist()
    assert nearest(maps, 1, 8)[0, 0, :, 0].tolist() == [9, 9, 10, 10, 11, 11, 12, 12]


@given(st.integers(1, 90), st.integers(1, 90))
def test_depth_of_any_size_is_that_of_its_nearest_pixels(height, width):
    maps = depth_maps(2, height, width, seed=height)
    found = DepthFrontEnd(spec_of("depth16"))(torch.from_numpy(maps))
    wanted = depth_input(nearest(maps, SIDE, SIDE))
    assert torch.equal(found, wanted)


def test_missing_depth_is_never_a_distance():
    maps = np.full((1, 70, 70, 1), 4000, np.uint16)
    maps[:, :35] = 0
    metres, mask = DepthFrontEnd(spec_of("depth16"))(torch.from_numpy(maps))[0]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert set(metres.unique().tolist()) == {0.0, np.float32(2.0 / 1.5)}


def test_recordings_are_shares_of_full_scale():
    given_waves = waves(2, 300)
    wanted = wave_input(given_waves)
    front = WaveFrontEnd(spec_of("wave"))
    assert torch.equal(front(torch.from_numpy(given_waves)), wanted)
    assert torch.equal(front(torch.from_numpy(given_waves / np.float32(32768))), wanted)


def test_the_file_holds_the_formula_of_the_fourier_basis_and_not_its_numbers(make, folder):
    path = folder("wave") / "student.onnx"
    data = path.read_bytes()
    model = gate(data, name="student.onnx")
    shape = [WINDOW_SAMPLES + 2, 1, WINDOW_SAMPLES]
    assert not [one for one in model.graph.initializer if list(one.dims) == shape]
    weights = sum(4 * value.numel() for value in make.student("audio-50k").state_dict().values())
    assert len(data) - weights <= LOG_MEL_LIMIT_BYTES
    name = next(node.output[0] for node in model.graph.node if node.name == "basis.float.Cast")
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run([name], {"wave": np.zeros((1, 400), np.float32)})[0]
    np.testing.assert_allclose(found[:, 0], fourier_basis(WINDOW_SAMPLES), atol=1e-7)


def test_the_log_mel_part_is_never_quantised(folder):
    model = onnx.load(folder("wave") / "student.onnx")
    layers = quantised_layers(model)
    assert layers
    assert not [name for name in layers if name.startswith("student.front.")]
    assert any(node.name.startswith("student.front.Conv") for node in model.graph.node)


@pytest.mark.parametrize("profile", ["fp32", "w8"])
@pytest.mark.parametrize("front_end", ["depth16", "wave"])
def test_the_device_computes_what_torch_does_at_every_size(make, folder, front_end, profile):
    device = Student(folder(front_end), profile=profile)
    inputs = depth_maps(3) if front_end == "depth16" else waves(3)
    limit = 1e-4 if profile == "fp32" else 0.05
    for size, given_inputs in FRONT_ENDS[front_end].variants(inputs, spec_of(front_end)).items():
        wanted = reference(make, front_end)(torch.from_numpy(given_inputs))[0].detach().numpy()
        assert np.abs(device(given_inputs).embedding - wanted).max() <= limit, size
    assert check(device) <= 1e-4


def write_wav(path, samples, *, rate_hz=8000, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


@pytest.mark.parametrize("profile", ["fp32", "w8"])
def test_silence_is_a_number(make, folder, profile):
    """The floor below the logarithm is in the file too: without it silence is log 0 - log 0."""
    silence = np.zeros((2, SAMPLES), np.float32)
    wanted = reference(make, "wave")(torch.from_numpy(silence))[0].detach().numpy()
    device = Student(folder("wave"), profile=profile)
    found = device.session.run(["embedding"], {device.sensor.input_name: silence})[0]
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= (1e-4 if profile == "fp32" else 0.05)


def test_a_wav_file_is_heard_as_its_samples(folder, tmp_path, capsys):
    device, samples = Student(folder("wave")), waves(1)
    assert device.rate_hz == 8000
    path = write_wav(tmp_path / "one.wav", samples[0])
    wanted = device(samples, rate_hz=8000).embedding
    np.testing.assert_array_equal(device(device.read(path)[None]).embedding, wanted)
    both = write_wav(tmp_path / "stereo.wav", np.repeat(samples[0], 2), channels=2)
    np.testing.assert_array_equal(device.read(both), device.read(path))
    (tmp_path / "no.png").write_bytes(b"")
    assert main([str(folder("wave")), str(tmp_path)]) == 0
    assert "no.png" not in capsys.readouterr().out


def test_another_rate_is_refused_and_both_are_named(folder, tmp_path, capsys):
    device = Student(folder("wave"))
    with pytest.raises(InferError, match=r"rate_hz=16000; the model takes 8000"):
        device(waves(1), rate_hz=16000)
    path = write_wav(tmp_path / "fast.wav", waves(1)[0], rate_hz=44100)
    assert main([str(folder("wave")), str(path)]) == 4
    assert "rate_hz=44100; the model takes 8000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 10), np.float32), "256 to"),
        (np.zeros((1, 4000)), "float64"),
        (np.zeros(4000, np.float32), r"shape=\(4000,\)"),
        (np.full((1, 4000), np.nan, np.float32), "finite"),
    ],
)
def test_what_is_no_recording_is_refused(folder, inputs, message):
    with pytest.raises(InferError, match=message):
        Student(folder("wave"))(inputs)


def test_wavs_that_cannot_be_read_say_why(folder, tmp_path):
    device = Student(folder("wave"))
    path = write_wav(tmp_path / "old.wav", np.full(4000, 128, np.uint8), width=1)
    with pytest.raises(InferError, match=r"old\.wav is silent"):
        device.read(path)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InferError, match="not a WAV file"):
        device.read(tmp_path / "text.wav")
    with pytest.raises(InferError, match="missing"):
        device.read(tmp_path / "none.wav")


def test_depth_files_of_16_bits_are_read_in_millimetres(folder, tmp_path):
    device, maps = Student(folder("depth16")), depth_maps(1, 40, 50)[0]
    Image.fromarray(maps[:, :, 0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", maps)
    (tmp_path / "c.pgm").write_bytes(b"P5 50 40 65535\n" + maps.astype(">u2").tobytes())
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(device.read(path), maps)


@pytest.mark.parametrize("name", ["a.png", "b.npy", "c.pgm"])
def test_depth_files_of_8_bits_are_refused(folder, tmp_path, name):
    grey = np.full((40, 50), 9, np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", grey)
    (tmp_path / "c.pgm").write_bytes(b"P5 50 40 255\n" + grey.tobytes())
    with pytest.raises(InferError, match="one channel of 16 bits, in millimetres"):
        Student(folder("depth16")).read(tmp_path / name)


def test_what_is_no_depth_map_is_refused(folder):
    device = Student(folder("depth16"))
    with pytest.raises(InferError, match="Metres in float"):
        device(np.zeros((1, 32, 32, 1), np.float32))
    with pytest.raises(InferError, match="missing"):
        device.read(folder("depth16") / "none.png")


@pytest.mark.parametrize(
    ("front_end", "words"), [("depth16", "millimetres"), ("wave", "recordings of any length")]
)
def test_the_card_says_what_it_takes(folder, front_end, words):
    assert words in (folder(front_end) / "MODEL_CARD.md").read_text()
