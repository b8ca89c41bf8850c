"""The program on the device: its answers, its messages, and that it needs neither torch nor edgecmd."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecmd.core.errors import ExportError
from edgecmd.data.user_files.decode import DecodeError, decoded_picture
from export.device import reading, saved_embeddings
from export.device.assemble import program
from export.device.classes import Prototypes
from export.device.infer import main
from export.device.properties import read_properties
from export.device.reading import SUFFIXES, InferError, example_files, read_image, refuse_old_pillow
from export.device.runtime import open_session
from export.device.sensors import SENSORS
from export.device.student import Student, check, make_prototypes, read_prototypes
from export.graph.spec import ExportSpec, LinearHead

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


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Folder with infer.py as it lies in a bundle."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "infer.py").write_text(program())
    return folder


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


def test_pillow_is_not_imported_before_a_picture_is_read(script):
    code = "import sys, infer; assert not {'PIL', 'torch', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    done = run(sys.executable, "-c", code, cwd=script)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.network
def test_script_runs_in_an_environment_with_only_its_two_packages(bundle, png, tmp_path):
    venv.create(tmp_path / "device", with_pip=True)
    python = tmp_path / "device" / "bin" / "python"
    install = run(python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy", cwd=tmp_path)
    assert install.returncode == 0, install.stderr
    folder = bundle("ws-50k")
    code = (
        "import sys; from infer import Student, check\n"
        "for profile in ('fp32', 'w8', 'int8'): check(Student('.', profile=profile))\n"
        "assert not {'torch', 'PIL', 'onnx', 'edgecmd'} & set(sys.modules)"
    )
    done = run(python, "-B", "-c", code, cwd=folder)
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
    assert best["class"] == Student(model).classes[int(expected.scores[0].argmax())]
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


def test_a_picture_of_another_size_is_resized_in_the_graph_and_said_so(model, make, tmp_path, capsys):
    small = make.images(1)[0, :, :, 0]
    large = tmp_path / "large.png"
    Image.fromarray(small.repeat(3, axis=0).repeat(3, axis=1)).save(large)
    image = read_image(large, channels=1)
    assert image.shape == (96, 96, 1)
    student = Student(model)
    # Blocks of nine equal pixels average to what they were: the graph sees the small picture.
    np.testing.assert_array_equal(student(image[None]).embedding, student(make.images(1)).embedding)
    assert main([str(model), str(large), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resized"] is True
    assert main([str(model), str(large)]) == 0
    assert "(resized from 96x96)" in capsys.readouterr().out


def test_whole_folders_are_read_in_order_and_other_files_left_out(model, make, tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    image = make.images(1)[0]
    np.save(tmp_path / "b.npy", image)
    (tmp_path / "a.pgm").write_bytes(b"P5 # noise\n32 32\n255\n" + image.tobytes())
    Image.fromarray(image[:, :, 0]).save(tmp_path / "deep" / "c.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert main([str(model.parent), str(tmp_path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.pgm", "b.npy", "c.PNG"]
    assert lines[0]["embedding"] == lines[1]["embedding"] == lines[2]["embedding"]
    (tmp_path / "empty").mkdir()
    assert main([str(model), str(tmp_path / "empty")]) == 4
    assert "No picture files below" in capsys.readouterr().err


def test_pgm_and_ppm_are_read_as_pillow_reads_them(tmp_path, make):
    grey, colour = make.images(1)[0], make.images(1, channels=3)[0]
    Image.fromarray(grey[:, :, 0]).save(tmp_path / "g.pgm")
    Image.fromarray(colour).save(tmp_path / "c.ppm")
    np.testing.assert_array_equal(read_image(tmp_path / "g.pgm", channels=1), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "c.ppm", channels=3), colour)
    expected = np.asarray(Image.fromarray(colour).convert("L"))[..., None]
    np.testing.assert_array_equal(read_image(tmp_path / "c.ppm", channels=1), expected)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5\n2 1\n65535\n\x00\x00\xff\xff", [0, 255]),  # 16 bits, high byte first
        (b"P5\n# made\n# by hand\n2 1 15\n\x0f\x03", [255, 51]),
    ],
)
def test_pgm_of_other_depths(tmp_path, data, expected):
    (tmp_path / "p.pgm").write_bytes(data)
    assert read_image(tmp_path / "p.pgm", channels=1).ravel().tolist() == expected


@pytest.mark.parametrize("data", [b"P5 2 2 255 \x00", b"P2 1 1 255 7", b"P5 0 1 255 ", b"P5 9", b""])
def test_broken_pgm_is_refused(tmp_path, data):
    (tmp_path / "p.pgm").write_bytes(data)
    with pytest.raises(InferError, match=r"p\.pgm is not a picture that can be read"):
        read_image(tmp_path / "p.pgm", channels=1)


def test_arrays_in_files_have_to_be_pictures(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(InferError, match=r"dtype=float32 and shape=\(4, 4\); allowed is uint8"):
        read_image(tmp_path / "f.npy", channels=1)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InferError, match=r"o\.npy is not a picture"):
        read_image(tmp_path / "o.npy", channels=1)


def test_profiles_of_a_bundle_are_chosen_by_name(model, png, tmp_path, capsys):
    assert Student(model.parent).profile == "fp32"
    assert Student(model.parent, profile="fp32").path == model
    assert Student(model, profile="int8").path.name == "student.int8.onnx"
    assert main([str(model.parent), str(png), "--profile", "w4"]) == 2
    assert "has profile=fp32, not w4" in capsys.readouterr().err


def test_check_compares_with_golden_values(model, tmp_path, capsys):
    assert main([str(model.parent), "--check"]) == 0
    assert "golden values: largest difference" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(model.parent, copy)
    shutil.copy(copy / "student.w8.onnx", copy / "student.onnx")
    assert check(Student(copy)) <= 1e-6  # it says itself which profile it is
    swapped = edited(model.parent / "student.w8.onnx", tmp_path, lambda p: {**p, "edgecmd.profile": "fp32"})
    shutil.copy(swapped, copy / "student.onnx")
    assert main([str(copy), "--check"]) == 6
    assert "differs from its golden values by" in capsys.readouterr().err
    (copy / "golden.npz").write_bytes(b"broken")
    assert main([str(copy), "--check"]) == 6
    assert "golden.npz" in capsys.readouterr().err


def test_prototypes_classify_without_training(model, make, tmp_path, capsys):
    images = make.images(6)
    for row, name in enumerate(["cup/1.npy", "cup/2.npy", "pen.npy"]):
        (tmp_path / "classes" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "classes" / name, images[row])
    student = Student(model)
    prototypes = read_prototypes(tmp_path / "classes", student)
    assert prototypes.names == ("cup", "pen")
    mean = student(images[:2]).embedding.mean(axis=0)
    np.testing.assert_allclose(prototypes.vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    found = student.with_prototypes(prototypes)(images)
    logits = 10.0 * found.embedding.astype(float) @ prototypes.vectors.T.astype(float)
    # A logit, 10 times a product of 16 terms between unit vectors, is off by at most 180 units of 2^-24
    # in float32, and the scores by half as much (p (1 - p) <= 1/4, two logits), whatever the processor.
    bound = 10 * 18 * 2.0**-24 / 2 + 8 * 2.0**-24
    np.testing.assert_allclose(
        found.scores, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=0, atol=bound
    )
    assert student.classes == ("house", "tree", "fish")  # the student itself is as it was
    np.savez(tmp_path / "more.npz", names=np.array(["hat"]), vectors=prototypes.vectors[1:], scale=10.0)
    words = ["--prototypes", str(tmp_path / "more.npz"), "--prototypes", str(tmp_path / "classes")]
    assert main([str(model), str(tmp_path / "classes" / "pen.npy"), "--json", "--scores", *words]) == 0
    assert list(json.loads(capsys.readouterr().out)["scores"]) == ["hat", "cup", "pen"]


def test_prototypes_that_do_not_fit_are_refused(model, tmp_path):
    student = Student(model)
    with pytest.raises(InferError, match=r"allowed is \(K, 16\)"):
        student.with_prototypes(Prototypes(("a",), np.zeros((1, 3), np.float32), 1.0))
    with pytest.raises(InferError, match=r"no prototypes\.npz and no folder"):
        read_prototypes(tmp_path / "missing.npz", student)
    with pytest.raises(InferError, match="has no pictures"):
        example_files(tmp_path)
    one = make_prototypes(student, {"a": [np.zeros((8, 8, 1), np.uint8)]}, scale=2.0)
    assert student.with_prototypes(one)(np.zeros((1, 8, 8, 1), np.uint8)).scores.tolist() == [[1.0]]


def test_a_model_of_another_kind_of_input_is_refused(model, tmp_path):
    path = edited(model, tmp_path, lambda properties: {**properties, "edgecmd.front_end": "radar"})
    with pytest.raises(InferError, match="front_end=radar; this program reads 1 and image"):
        Student(path)


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
    ],
)
def test_pictures_of_every_kind_become_grey_or_colour(tmp_path, mode, pixel, channels, expected):
    path = tmp_path / "picture.png"
    Image.new(mode, (4, 4), pixel).save(path)
    image = read_image(path, channels=channels)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == expected


def test_16_bits_are_a_depth_map_and_no_picture_as_in_training(tmp_path):
    Image.new("I;16", (4, 4), 257 * 40).save(tmp_path / "deep.png")
    with pytest.raises(InferError, match=r"mode=I;16: a depth map .* save it with 8 bits"):
        read_image(tmp_path / "deep.png", channels=1)


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    Image.new("P", (4, 4), 0).save(tmp_path / "p.png", transparency=0)
    assert (read_image(tmp_path / "p.png", channels=3) == 255).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = np.zeros((4, 4), dtype=np.uint8)
    picture[0] = 255
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", channels=1)[:, :, 0]
    np.testing.assert_array_equal(found, picture[::-1])


def test_numbers_beyond_16_bits_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tiff")
    with pytest.raises(InferError, match="save it with 8 bits") as caught:
        read_image(tmp_path / "f.tiff", channels=1)
    assert caught.value.exit_code == 4


def test_mistakes_with_files_are_told_without_a_traceback(model, png, tmp_path, capsys):
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(png.read_bytes()[:200])
    text.write_text("not a picture")
    code = main([str(model), "missing.png", str(broken), str(text), str(png), "--json"])
    out, err = capsys.readouterr()
    assert code == 4
    assert len(out.splitlines()) == 1  # the good picture is still answered
    lines = err.splitlines()
    assert lines[0] == "error: missing.png is missing or not a file."
    assert lines[1].startswith(f"error: {broken} is not a picture that can be read")
    assert lines[2].startswith(f"error: {text} is not a picture that can be read")


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
    assert "has no classes, so there are no --scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edgecmd.format": "2"}, "edgecmd.format=2, .*this program reads 1"),
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
    assert main(["student.onnx"]) == 2
    assert "image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 1), dtype=np.float32),
        np.zeros((32, 32, 1), dtype=np.uint8),
        np.zeros((1, 1, 32, 32), dtype=np.uint8),
        np.zeros((0, 32, 32, 1), dtype=np.uint8),
        np.zeros((1, 0, 32, 1), dtype=np.uint8),
        np.broadcast_to(np.zeros(1, dtype=np.uint8), (1, 2**14, 2**13, 1)),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(model, images):
    with pytest.raises(InferError, match=r"allowed is uint8 of shape \(batch, height, width, 1\)"):
        Student(model)(images)


def test_arrays_need_not_be_contiguous(model, make):
    images = make.images(4)
    np.testing.assert_array_equal(
        Student(model)(images[::2]).embedding, Student(model)(images[::2].copy()).embedding
    )


def test_pictures_need_one_or_three_channels(png):
    with pytest.raises(InferError, match="takes 2 channels"):
        read_image(png, channels=2)


def test_missing_pillow_is_named(png, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InferError, match="pip install pillow") as caught:
        read_image(png, channels=1)
    assert caught.value.exit_code == 1


def test_names_that_a_terminal_cannot_show_are_escaped(model, png, tmp_path, script):
    odd = tmp_path / "haus-ü.png"
    odd.write_bytes(png.read_bytes())
    command = ["-c", "import sys, infer; sys.stdout.reconfigure(encoding='ascii'); infer.main(sys.argv[1:])"]
    done = run(sys.executable, *command, model, odd, cwd=script)
    assert done.returncode == 0, done.stderr
    assert "haus-\\xfc.png" in done.stdout


class TestOutput:
    """Every file is tried, names are printed escaped, and a closed output ends the script quietly."""

    def test_a_file_that_onnxruntime_cannot_compute_is_named_and_the_rest_is_answered(
        self, model, png, monkeypatch, tmp_path, capsys
    ):
        calls = []

        class Session:
            def __init__(self, real):
                self.real = real

            def __getattr__(self, name):
                return getattr(self.real, name)

            def run(self, outputs, feed):
                calls.append(feed)
                if len(calls) == 2:
                    raise RuntimeError("[ONNXRuntimeError] : 6 : no room\nand more")
                return self.real.run(outputs, feed)

        real = open_session
        monkeypatch.setattr(
            "export.device.student.open_session", lambda path, **options: Session(real(path, **options))
        )
        other = tmp_path / "other.png"
        other.write_bytes(png.read_bytes())
        assert main([str(model), str(png), str(other), str(png), "--json", "--batch", "1"]) == 4
        out, err = capsys.readouterr()
        assert [json.loads(line)["file"] for line in out.splitlines()] == [str(png), str(png)]
        assert err.startswith(f"error: {other}: An input of shape (1, 32, 32, 1) cannot be computed: [ONNX")
        assert len(err.splitlines()) == 1

    def test_names_of_files_and_classes_cannot_command_a_terminal(self, model, png, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        for name in (b"new\nline.png", b"red\x1b[31m.png", "\u202egnp.exe.png".encode(), b"no\xfftext.png"):
            (folder / os.fsdecode(name)).write_bytes(png.read_bytes())
        (folder / os.fsdecode(b"broken\xfe\x1b.png")).write_bytes(b"")
        hostile = edited(
            model, tmp_path, lambda old: {**old, "edgecmd.classes": '["a\\u001b[2J", "\\u202eb", "c\\n"]'}
        )
        for words in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "export.device.infer", hostile, folder, *words],
                capture_output=True,
                check=False,
            )
            assert done.returncode == 4
            assert b"Traceback" not in done.stderr
            for stream in (done.stdout, done.stderr):
                assert all(one.isprintable() for one in stream.decode("utf-8").replace("\n", ""))
            assert len(done.stderr.splitlines()) == 1
            assert b"broken\\udcfe\\x1b.png" in done.stderr
            assert len(done.stdout.splitlines()) == 4 + (not words)
            if words:
                files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
                assert str(folder / "new\nline.png") in files
                assert f"{folder}/no\\udcfftext.png" in files
            else:
                assert b"new\\nline.png" in done.stdout
                assert b"\\u202egnp.exe.png" in done.stdout

    @pytest.mark.skipif(os.name != "posix", reason="closes descriptors by the shell")
    @pytest.mark.parametrize(
        ("shell", "code", "told"),
        [
            ("{} >&-", 0, ""),
            ("{} 2>&-", 4, ""),
            ("{} >&- 2>&-", 4, ""),
            ("exec 3> >(true); wait $!; {} >&3; echo $? >&2", 0, "141"),
            ("{} > /dev/full", 1, "the output cannot be written: No space left on device"),
        ],
    )
    def test_closed_and_full_outputs(self, model, png, tmp_path, shell, code, told):
        missing = "" if code < 4 else str(tmp_path / "missing.png")
        command = f"{sys.executable} -m export.device.infer {model} {missing} " + f"{png} " * 3
        done = subprocess.run(
            ["bash", "-c", shell.format(command)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert told in done.stderr

    def test_the_first_frame_is_used_and_a_note_says_so(self, model, png, make, tmp_path, capsys):
        frames = [Image.fromarray(one[:, :, 0]) for one in make.images(3)]
        frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
        assert main([str(model), str(tmp_path / "moving.png"), "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == f"note: {tmp_path / 'moving.png'} has 3 frames; the first is used.\n"
        assert main([str(model), str(png), "--json"]) == 0
        assert json.loads(out)["embedding"] == json.loads(capsys.readouterr().out)["embedding"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scale": np.array("x")}, "no number above 0"),
        ({"scale": np.float64("nan")}, "no number above 0"),
        ({"names": np.array("x")}, "its names have shape"),
        ({"vectors": np.full((1, 16), np.nan, np.float32)}, "not finite"),
        ({"vectors": np.zeros((3, 16), np.float32)}, "its names have shape"),
    ],
)
def test_prototypes_that_hold_something_else_are_named(model, png, tmp_path, capsys, change, text):
    arrays = {"names": np.array(["a"]), "vectors": np.ones((1, 16), np.float32), "scale": np.float64(1)}
    np.savez(tmp_path / "p.npz", **{**arrays, **change})
    assert main([str(model), str(png), "--prototypes", str(tmp_path / "p.npz")]) == 4
    assert text in capsys.readouterr().err


def test_prototypes_of_two_widths_are_refused(model, png, tmp_path, capsys):
    words = []
    for width in (16, 3):
        vectors = np.ones((1, width), np.float32)
        np.savez(tmp_path / f"{width}.npz", names=np.array([f"c{width}"]), vectors=vectors, scale=1.0)
        words += ["--prototypes", str(tmp_path / f"{width}.npz")]
    assert main([str(model), str(png), *words]) == 4
    assert "allowed is (K, 16)" in capsys.readouterr().err


def test_a_comment_in_a_pgm_cannot_make_its_reader_hang(tmp_path):
    (tmp_path / "p.pgm").write_bytes(b"P5 " + b"#a " * 20_000)
    with pytest.raises(InferError, match="no header of a binary PGM"):
        read_image(tmp_path / "p.pgm", channels=1)


def test_grey_of_colour_is_made_in_bands_and_is_the_same_to_the_bit(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    # ITU-R 601 in whole numbers, of the whole picture at once.
    expected = (image.astype(np.int64) @ np.array([19595, 38470, 7471]) + 2**15) >> 16
    deep = (31 * np.arange(37 * 53).reshape(37, 53)).astype(">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 53 37 65000\n" + deep.tobytes())
    scaled = np.rint(deep.astype(np.float64) * (255.0 / 65000)).clip(0, 255)
    for band in (1, 100, 37 * 53, 2**20):
        monkeypatch.setattr(reading, "BAND", band)
        for layout in (np.ascontiguousarray, np.asfortranarray):
            np.save(tmp_path / "colour.npy", layout(image))
            np.testing.assert_array_equal(read_image(tmp_path / "colour.npy", channels=1)[..., 0], expected)
        np.testing.assert_array_equal(read_image(tmp_path / "deep.pgm", channels=1)[..., 0], scaled)


def test_grey_of_colour_takes_little_memory_beside_the_picture(tmp_path):
    np.save(tmp_path / "large.npy", np.zeros((2000, 2000, 3), np.uint8))
    tracemalloc.start()
    read_image(tmp_path / "large.npy", channels=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The picture has 12 MB; as whole numbers of 64 bits it had 96 MB.
    assert peak < 3 * 12_000_000


def short_of_memory(*_, **__):
    raise MemoryError


@pytest.mark.parametrize("place", ["_by_band", "npy_array", "run"])
def test_a_file_without_enough_memory_is_named_and_the_next_is_tried(
    model, make, tmp_path, capsys, monkeypatch, place
):
    image = make.images(1, channels=3)[0]
    np.save(tmp_path / "a.npy", image)
    (tmp_path / "b.pgm").write_bytes(b"P5 32 32 255\n" + make.images(1)[0].tobytes())
    if place == "run":
        real = Student.__call__

        def call(self, inputs, **words):
            return (
                short_of_memory() if (inputs[0] != make.images(1)[0]).any() else real(self, inputs, **words)
            )

        monkeypatch.setattr(Student, "__call__", call)
    else:
        monkeypatch.setattr(reading, place, short_of_memory)
    assert main([str(model), str(tmp_path / "a.npy"), str(tmp_path / "b.pgm"), "--json"]) == 4
    out, err = capsys.readouterr()
    assert err == f"error: {tmp_path / 'a.npy'}: it needs more memory than there is. Make it smaller.\n"
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(tmp_path / "b.pgm")]


def test_prototypes_without_enough_memory_are_named(model, png, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "p.npz", names=np.array(["a"]), vectors=np.ones((1, 16)), scale=1.0)
    monkeypatch.setattr(saved_embeddings, "npz_arrays", short_of_memory)
    assert main([str(model), str(png), "--prototypes", str(tmp_path / "p.npz")]) == 4
    assert f"{tmp_path / 'p.npz'}: it needs more memory" in capsys.readouterr().err


@pytest.mark.parametrize("long", ["a" * 300, "a" * 300 + ".png", "b/" * 3000])
def test_a_path_that_cannot_be_looked_at_is_named_and_the_next_is_tried(model, png, capsys, long):
    assert main([str(model), long, str(png), "--json"]) == 4
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert f"{Path(long)} cannot be opened: File name too long." in err
    assert "output" not in err
    for words in ([long, str(png)], [str(model), str(png), "--prototypes", long]):
        assert main(words) == 4
        assert "cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("closed file")])
def test_only_an_output_that_fails_is_called_so(model, png, capsys, monkeypatch, failure):
    def refuse(*_, file=None, **__):
        if file is None:
            raise failure

    monkeypatch.setattr("builtins.print", refuse)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main([str(model), str(png)]) == 1
    monkeypatch.undo()
    capsys.readouterr()
    monkeypatch.setattr(
        Student, "reading", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    assert main([str(model), str(png)]) == 4
    assert f"{png} cannot be read: Input/output error." in capsys.readouterr().err


def test_wrong_words_are_told_with_escapes_and_the_name_of_the_program(model, capsys):
    assert main([str(model), "--bogus\x1b[31m\u202e"], prog="edgecmd infer") == 2
    err = capsys.readouterr().err
    assert err.isprintable() or err.strip().isprintable()
    assert r"--bogus\x1b[31m\u202e" in err
    assert "`edgecmd infer --help`" in err


def test_files_may_stand_behind_the_options(model, png, capsys):
    assert main([str(model), "--json", "--check", str(png)]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(first) == ["golden_difference"]
    assert second["file"] == str(png)


def test_files_of_a_folder_that_are_not_read_are_told_in_one_note(model, make, tmp_path, capsys):
    for name in ("a.heic", "b.HEIC", "c.flac", "README", ".hidden"):
        (tmp_path / name).write_text("x")
    assert main([str(model), str(tmp_path)]) == 4
    err = capsys.readouterr().err
    assert f"No picture files below {tmp_path}: it has 1 .flac, 2 .heic, 1 without an ending." in err
    assert ".jfif" in err
    np.save(tmp_path / "d.npy", make.images(1)[0])
    assert main([str(model), str(tmp_path)]) == 0
    expected = f"note: {tmp_path} has files that are not read: 1 .flac, 2 .heic, 1 without an ending.\n"
    assert capsys.readouterr().err == expected


def test_an_empty_folder_does_not_stop_a_good_file(model, png, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(model), str(tmp_path / "empty"), str(png), "--json"]) == 4
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "empty: it has no file" in err


def test_a_class_without_a_file_is_refused_by_name(png, tmp_path):
    (tmp_path / "classes" / "cup").mkdir(parents=True)
    shutil.copy(png, tmp_path / "classes" / "cup")
    (tmp_path / "classes" / ".cache").mkdir()
    assert list(example_files(tmp_path / "classes")) == ["cup"]
    (tmp_path / "classes" / "pen").mkdir()
    with pytest.raises(InferError, match=r"nothing of the class .*pen: it has no file"):
        example_files(tmp_path / "classes")


def test_all_that_training_reads_is_read_in_a_folder():
    from edgecmd.data.user_files.images import SUFFIXES as OF_TRAINING

    assert set(OF_TRAINING) <= set(SUFFIXES)


def test_what_is_no_number_is_refused_and_the_next_is_tried(model, png, tmp_path, capsys):
    proto = onnx.load(model)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.nan), "nan"))
    last = next(node for node in proto.graph.node if "embedding" in node.output)
    last.output[list(last.output).index("embedding")] = "before"
    for node in proto.graph.node:
        node.input[:] = ["before" if one == "embedding" else one for one in node.input]
    proto.graph.node.append(onnx.helper.make_node("Mul", ["before", "nan"], ["embedding"]))
    (tmp_path / "student.onnx").write_bytes(proto.SerializeToString())
    shutil.copy(model.with_name("golden.npz"), tmp_path)
    assert main([str(tmp_path), str(png), str(png), "--json"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(f"error: {png}: The model gives numbers that are not finite") == 2
    assert main([str(tmp_path), "--check"]) == 6


class Node:
    """An input or output as onnxruntime describes it."""

    def __init__(self, name, *shape):
        self.name, self.shape = name, shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"classes": "[" * 100_000}, "broken edgecmd properties"),
        ({"classes": '["a"]'}, "classes=1, but the output scores has 2"),
        ({"classes": '{"a": 1, "b": 2}'}, "classes is no list of names"),
        ({"classes": '["a", 3]'}, "classes is no list of names"),
        ({"classes": '["a", "a"]'}, "two classes have one name"),
        ({"classes": "[]"}, "0 classes do not go with"),
        ({"preprocess": "[]"}, "preprocess is no table"),
        ({"preprocess": '{"least_samples": 256}'}, "rate_hz is missing"),
        ({"preprocess": '{"rate_hz": 8000}'}, "least_samples is missing"),
        ({"preprocess": '{"rate_hz": "8000", "least_samples": 1}'}, "rate_hz='8000' is no number above 0"),
        ({"preprocess": '{"rate_hz": NaN, "least_samples": 1}'}, "rate_hz=nan is no number above 0"),
        ({"embedding_dim": "17"}, "embedding_dim=17, but the output embedding has 16"),
        ({"channels": "0"}, "channels=0 is below 1"),
        ({"image_size": "9" * 5000}, "broken edgecmd properties"),
        ({"front_end": "image"}, "the model does not take image"),
    ],
)
def test_damaged_properties_are_refused_before_a_file_is_read(change, message):
    sound = {
        "format": "1",
        "front_end": "wave",
        "image_size": "8000",
        "channels": "1",
        "embedding_dim": "16",
        "classes": '["a", "b"]',
        "preprocess": '{"rate_hz": 8000, "least_samples": 256}',
    }
    properties = {f"edgecmd.{name}": value for name, value in {**sound, **change}.items()}
    words = {
        "inputs": [Node("wave", "batch", "samples")],
        "outputs": [Node("embedding", "batch", 16), Node("scores", "batch", 2)],
    }
    if not message:
        assert read_properties(Path("m.onnx"), properties, **words).sensor is SENSORS["wave"]
        return
    with pytest.raises(InferError, match="m.onnx has broken edgecmd properties") as caught:
        read_properties(Path("m.onnx"), properties, **words)
    assert message in str(caught.value)
    assert caught.value.exit_code == 6


def test_an_example_that_cannot_be_computed_is_named(model, png, tmp_path, capsys, monkeypatch):
    shutil.copy(png, tmp_path / "cup.png")

    def refuse(self, inputs, **_):
        raise InferError("it cannot be computed", exit_code=4)

    monkeypatch.setattr(Student, "__call__", refuse)
    (tmp_path / "classes").mkdir()
    shutil.copy(png, tmp_path / "classes" / "cup.png")
    assert main([str(model), str(png), "--prototypes", str(tmp_path / "classes")]) == 4
    assert f"{tmp_path / 'classes' / 'cup.png'}: it cannot be computed" in capsys.readouterr().err


def test_class_names_that_are_no_text_are_told_as_json_may_hold_them(model, png, tmp_path, capsys):
    vectors = np.eye(2, 16, dtype=np.float32)
    np.savez(tmp_path / "p.npz", names=np.array(["p\udcff", "q"]), vectors=vectors, scale=1.0)
    words = [str(model), str(png), "--json", "--scores", "--prototypes", str(tmp_path / "p.npz")]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert sorted(record["scores"]) == [r"p\udcff", "q"]
    assert sorted(one["class"] for one in record["top"]) == [r"p\udcff", "q"]
    json.dumps(record, ensure_ascii=False).encode()


@pytest.mark.parametrize("version", ["7.2.0", "5.1", "7.99.dev0"])
def test_a_pillow_that_is_too_old_is_named(version):
    with pytest.raises(InferError, match=rf"Pillow {version} is too old .*8\.0 or newer") as caught:
        refuse_old_pillow(version)
    assert caught.value.exit_code == 1
    for newer in ("8.0.0", "12.1"):
        refuse_old_pillow(newer)


def test_a_pillow_without_a_format_reads_the_others(tmp_path, monkeypatch):
    Image.init()
    Image.new("L", (4, 4), 7).save(tmp_path / "gif.png", format="GIF")
    (tmp_path / "a.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0")
    monkeypatch.delitem(Image.OPEN, "WEBP")
    assert decoded_picture(tmp_path / "gif.png").size == (4, 4)
    with pytest.raises(DecodeError, match="this Pillow reads no WEBP"):
        decoded_picture(tmp_path / "a.webp")


def test_more_classes_than_a_mask_holds_are_refused():
    def spec(architecture, num):
        names = tuple(map(str, range(num)))
        head = LinearHead(weight=np.ones((num, 8)), bias=np.ones(num), names=names)
        words = {"image_size": 32, "channels": 1, "embedding_dim": 8, "offset": 0.0, "scale": 1.0}
        return ExportSpec(architecture=architecture, license="MIT", head=head, **words)

    spec("seg-50k", 256)
    spec("ws-50k", 257)
    with pytest.raises(ExportError, match="257 classes; a mask holds at most 256"):
        spec("seg-50k", 257)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : running Resize node. Status Message: std::bad_alloc"),
        RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"),
    ],
)
def test_a_runtime_without_memory_is_told_as_such(model, png, capsys, monkeypatch, error):
    class Session:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def run(self, *_):
            raise error

    real = open_session
    monkeypatch.setattr(
        "export.device.student.open_session", lambda *one, **words: Session(real(*one, **words))
    )
    assert main([str(model), str(png)]) == 4
    err = capsys.readouterr().err
    assert err.startswith(f"error: {png}: ")
    assert "it needs more memory than there is" in err
