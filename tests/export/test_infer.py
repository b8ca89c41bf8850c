"""The program on the device: its answers, its messages, and that it needs neither torch nor edgecmd."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from export.device import infer
from export.device.infer import InferError, Student, main, read_picture

# Runs infer.py where nothing of these can be imported.
ISOLATED = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "edgecmd", "export", "onnx", "onnxscript", "jaxtyping", "scipy"}:
            raise ImportError(name + " is refused")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "edgecmd", "export", "onnx"} & set(sys.modules), sorted(sys.modules)
"""


@pytest.fixture
def png(tmp_path, make):
    """A grey picture of exactly the model's size."""
    path = tmp_path / "drawing.png"
    Image.fromarray(make.images(1)[0, :, :, 0]).save(path)
    return path


@pytest.fixture
def model(bundle):
    """Path of a grey model with a head."""
    return bundle("ws-50k") / "student.onnx"


def edited(model, folder, change):
    """Copy of a model with other properties."""
    proto = onnx.load(model)
    properties = change({entry.key: entry.value for entry in proto.metadata_props})
    onnx.helper.set_model_props(proto, properties)
    path = folder / "edited.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def run(*arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(one) for one in arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_script_runs_where_torch_and_edgecmd_cannot_be_imported(bundle, png, tmp_path):
    folder = bundle("ws-50k")
    command = [
        sys.executable,
        "-I",
        "-W",
        "error",
        "-c",
        ISOLATED,
        folder / "infer.py",
        folder / "student.onnx",
    ]
    done = run(*command, png, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["embedding"]) == 16


def test_pillow_is_not_imported_before_a_picture_is_read():
    code = "import sys, infer; assert not {'PIL', 'torch', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    done = run(sys.executable, "-c", code, cwd=Path(infer.__file__).parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.network
def test_script_runs_in_an_environment_with_only_its_two_packages(bundle, png, tmp_path):
    venv.create(tmp_path / "device", with_pip=True)
    python = tmp_path / "device" / "bin" / "python"
    install = run(python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy", cwd=tmp_path)
    assert install.returncode == 0, install.stderr
    folder = bundle("ws-50k")
    check = (
        "import sys, numpy; from infer import Student; golden = numpy.load('golden.npz')\n"
        "found = Student('student.onnx')(golden['image'])\n"
        "assert abs(found.embedding - golden['embedding']).max() <= golden['tolerance']\n"
        "assert not {'torch', 'PIL', 'onnx', 'edgecmd'} & set(sys.modules)"
    )
    done = run(python, "-B", "-c", check, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run(python, "-B", folder / "infer.py", folder / "student.onnx", png, cwd=tmp_path)
    assert done.returncode == 1
    assert "needs Pillow: pip install pillow" in done.stderr
    assert run(python, "-m", "pip", "install", "--quiet", "pillow", cwd=tmp_path).returncode == 0
    done = run(python, "-B", folder / "infer.py", folder / "student.onnx", png, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_json_lines_have_the_whole_embedding_and_all_scores_on_request(model, png, make, capsys):
    assert main([str(model), str(png), str(png), "--json", "--scores"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = Student(model)(make.images(1))
    assert len(lines) == 2
    assert lines[0]["file"] == str(png)
    assert lines[0]["resized"] is False
    np.testing.assert_array_equal(np.float32(lines[0]["embedding"]), expected.embedding[0])
    assert list(lines[0]["scores"]) == ["house", "tree", "fish"]
    assert sum(lines[0]["scores"].values()) == pytest.approx(1.0, abs=1e-6)
    best = lines[0]["top"][0]
    assert best["class"] == infer.Student(model).classes[int(expected.scores[0].argmax())]
    assert best["probability"] == max(lines[0]["scores"].values())


def test_json_without_scores_or_head_has_no_such_keys(model, bundle, png, capsys):
    main([str(model), str(png), "--json"])
    main([str(bundle("gn-50k") / "student.onnx"), str(png), "--json"])
    with_head, without = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert set(with_head) == {"file", "resized", "top", "embedding"}
    assert set(without) == {"file", "resized", "embedding"}


def test_table_shows_the_likeliest_classes_first(model, png, capsys):
    assert main([str(model), str(png)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "classes"]
    shares = [float(part.split()[-1].rstrip("%")) for part in row.removeprefix(str(png)).split(",")]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert header.index("classes") == len(str(png)) + 2


def test_table_without_a_head_shows_norm_and_first_values(bundle, png, capsys):
    assert main([str(bundle("gn-50k") / "student.onnx"), str(png)]) == 0
    out = capsys.readouterr().out
    assert "norm 1.0000, first values " in out
    assert "resized" not in out


def test_a_picture_of_another_size_is_averaged_down_and_said_so(model, make, tmp_path, capsys):
    small = make.images(1)[0, :, :, 0]
    large = tmp_path / "large.png"
    Image.fromarray(small.repeat(3, axis=0).repeat(3, axis=1)).save(large)
    picture = read_picture(str(large), size=32, channels=1)
    np.testing.assert_array_equal(picture.image[:, :, 0], small)
    assert main([str(model), str(large), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resized"] is True
    assert main([str(model), str(large)]) == 0
    assert "(resized from 96x96)" in capsys.readouterr().out


def test_a_smaller_picture_is_enlarged(tmp_path):
    Image.new("L", (8, 16), 77).save(tmp_path / "small.png")
    picture = read_picture(str(tmp_path / "small.png"), size=32, channels=3)
    assert picture.image.shape == (32, 32, 3)
    assert (picture.image == 77).all()
    assert picture.original_size == (8, 16)


@pytest.mark.parametrize(
    ("mode", "pixel", "channels", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), 3, [255, 255, 255]),
        ("RGBA", (255, 0, 0, 255), 3, [255, 0, 0]),
        ("RGBA", (0, 0, 0, 128), 1, [127]),
        ("LA", (0, 0), 1, [255]),
        ("RGB", (255, 255, 255), 1, [255]),
        ("L", 9, 3, [9, 9, 9]),
        ("1", 1, 1, [255]),
        ("I;16", 257 * 40, 1, [40]),
        ("I;16", 65535, 3, [255, 255, 255]),
    ],
)
def test_pictures_of_every_kind_become_grey_or_colour(tmp_path, mode, pixel, channels, expected):
    path = tmp_path / "picture.png"
    Image.new(mode, (4, 4), pixel).save(path)
    image = read_picture(str(path), size=4, channels=channels).image
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == expected


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    Image.new("P", (4, 4), 0).save(tmp_path / "p.png", transparency=0)
    assert (read_picture(str(tmp_path / "p.png"), size=4, channels=3).image == 255).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = np.zeros((4, 4), dtype=np.uint8)
    picture[0] = 255
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    found = read_picture(str(tmp_path / "turned.png"), size=4, channels=1).image[:, :, 0]
    np.testing.assert_array_equal(found, picture[::-1])


def test_numbers_beyond_16_bits_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tiff")
    with pytest.raises(InferError, match="save it with 8 bits") as caught:
        read_picture(str(tmp_path / "f.tiff"), size=4, channels=1)
    assert caught.value.exit_code == 4


def test_mistakes_with_files_are_told_without_a_traceback(model, png, tmp_path, capsys):
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(png.read_bytes()[:200])
    text.write_text("not a picture")
    code = main([str(model), "missing.png", str(broken), str(text), str(tmp_path), str(png), "--json"])
    out, err = capsys.readouterr()
    assert code == 4
    assert len(out.splitlines()) == 1  # the good picture is still answered
    lines = err.splitlines()
    assert lines[0] == "error: missing.png is missing or not a file."
    assert lines[1].startswith(f"error: {broken} is not a picture that Pillow can read")
    assert lines[2].startswith(f"error: {text} is not a picture that Pillow can read")
    assert lines[3] == f"error: {tmp_path} is missing or not a file."


def test_mistakes_with_the_model_are_told_without_a_traceback(model, bundle, png, tmp_path, capsys):
    garbage = tmp_path / "garbage.onnx"
    garbage.write_text("garbage")
    foreign = edited(model, tmp_path, lambda _: {})
    cases = [
        ("missing.onnx", 4, "missing.onnx is missing or not a file"),
        (garbage, 6, "is not a model that onnxruntime can load"),
        (foreign, 6, "is not an edgecmd model: it has no property edgecmd.format"),
    ]
    for path, exit_code, message in cases:
        assert main([str(path), str(png)]) == exit_code
        out, err = capsys.readouterr()
        assert message in err
        assert out == ""
        assert "Traceback" not in err
    assert main([str(bundle("gn-50k") / "student.onnx"), str(png), "--scores"]) == 2
    assert "has no head, so there are no --scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edgecmd.format": "2"}, "edgecmd.format=2; this program reads 1"),
        ({"edgecmd.image_size": "big"}, "broken edgecmd properties"),
        ({"edgecmd.classes": "["}, "broken edgecmd properties"),
        ({"edgecmd.classes": "3"}, "broken edgecmd properties"),
    ],
)
def test_properties_of_another_format_are_refused(model, tmp_path, change, message):
    path = edited(model, tmp_path, lambda properties: {**properties, **change})
    with pytest.raises(InferError, match=message) as caught:
        Student(path)
    assert caught.value.exit_code == 6


def test_missing_arguments_end_with_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["student.onnx"])
    assert caught.value.code == 2
    assert "image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 1), dtype=np.float32),
        np.zeros((32, 32, 1), dtype=np.uint8),
        np.zeros((1, 32, 33, 1), dtype=np.uint8),
        np.zeros((1, 1, 32, 32), dtype=np.uint8),
        np.zeros((0, 32, 32, 1), dtype=np.uint8),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(model, images):
    with pytest.raises(InferError, match=r"allowed is uint8 of shape \(batch, 32, 32, 1\)"):
        Student(model)(images)


def test_arrays_need_not_be_contiguous(model, make):
    images = make.images(4)
    np.testing.assert_array_equal(
        Student(model)(images[::2]).embedding, Student(model)(images[::2].copy()).embedding
    )


def test_pictures_need_one_or_three_channels(png):
    with pytest.raises(InferError, match="takes 2 channels"):
        read_picture(str(png), size=32, channels=2)


def test_missing_pillow_is_named(png, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InferError, match="pip install pillow") as caught:
        read_picture(str(png), size=32, channels=1)
    assert caught.value.exit_code == 1


def test_names_that_a_terminal_cannot_show_are_escaped(model, png, tmp_path):
    odd = tmp_path / "haus-ü.png"
    odd.write_bytes(png.read_bytes())
    program = Path(infer.__file__)
    command = ["-c", "import sys, infer; sys.stdout.reconfigure(encoding='ascii'); infer.main(sys.argv[1:])"]
    done = run(sys.executable, *command, model, odd, cwd=program.parent)
    assert done.returncode == 0, done.stderr
    assert "haus-\\xfc.png" in done.stdout
