"""infer.py as a tool among others: pipes, raw frames, batches, readers, forms of answers, a folder of all."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from export.device.answers import predicted
from export.device.infer import main
from export.device.intake import Failed, Given, Task, groups, loaded, raw_form, raw_tasks
from export.device.printing import Sink
from export.device.reading import InferError, Reading
from export.device.student import Prediction, Student
from tests.command_line import take_interrupts


@pytest.fixture
def model(bundle):
    """Path of a grey model with a head."""
    return bundle("ws-50k") / "student.onnx"


@pytest.fixture
def files(make, tmp_path):
    """Folder of five grey pictures of the model's size."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row, one in enumerate(make.images(5)):
        Image.fromarray(one[:, :, 0]).save(folder / f"{row}.png")
    return folder


@pytest.fixture
def piped(monkeypatch):
    """Puts bytes into the standard input."""

    def put(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))

    return put


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestStandardInput:
    @pytest.mark.parametrize("form", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "npy"])
    def test_a_file_of_any_kind_is_known_by_its_first_bytes(self, model, make, piped, tmp_path, capsys, form):
        image, data = make.images(1)[0, :, :, 0], io.BytesIO()
        np.save(data, image) if form == "npy" else Image.fromarray(image).save(data, format=form)
        ending = {"jpeg": "jpg", "tiff": "tif", "ppm": "pgm"}.get(form, form)
        (tmp_path / f"file.{ending}").write_bytes(data.getvalue())
        piped(data.getvalue())
        assert main([str(model), "-", str(tmp_path / f"file.{ending}"), "--json"]) == 0
        first, second = records(capsys)
        assert first.pop("file") == "-"
        assert second.pop("file") == str(tmp_path / f"file.{ending}")
        assert first == second

    @pytest.mark.parametrize("data", [b"", b"hello", b"RIFF\0\0\0\0WAVEfmt ", b"\x89PNG\r\n\x1a\n"])
    def test_what_is_no_picture_is_told_without_the_name_of_a_temporary_file(
        self, model, piped, capsys, data
    ):
        piped(data)
        assert main([str(model), "-"]) == 4
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: - is ")
        assert "tmp" not in err

    def test_it_is_read_once_and_not_from_a_terminal(self, model, monkeypatch, capsys):
        assert main([str(model), "-", "-"]) == 2
        assert "- is given twice" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        for words in ([], ["--raw", "32x32"]):
            assert main([str(model), "-", *words]) == 2
            assert "nothing is piped into it" in capsys.readouterr().err


class TestRawFrames:
    def test_frames_are_what_the_same_pictures_in_files_are(self, model, make, piped, capsys):
        images = make.images(3)
        expected = Student(model)(images)
        piped(images.tobytes())
        assert main([str(model), "-", "--raw", "32x32", "--json"]) == 0
        found = records(capsys)
        assert [(one["file"], one["frame"]) for one in found] == [("-#0", 0), ("-#1", 1), ("-#2", 2)]
        np.testing.assert_array_equal(np.float32([one["embedding"] for one in found]), expected.embedding)

    def test_width_comes_first_and_colour_becomes_the_grey_of_the_model(self, model, make, tmp_path, capsys):
        wide = make.images(2, channels=3)[:, :20]
        (tmp_path / "a.rgb").write_bytes(wide.tobytes())
        assert main([str(model), str(tmp_path / "a.rgb"), "--raw", "32x20x3", "--json"]) == 0
        grey = [np.asarray(Image.fromarray(one).convert("L"))[None, ..., None] for one in wide]
        for one, image in zip(records(capsys), grey, strict=True):
            assert one["resized"] is True
            np.testing.assert_array_equal(np.float32(one["embedding"]), Student(model)(image).embedding[0])

    @pytest.mark.parametrize(
        ("length", "num", "text"), [(1500, 1, "frame 1: 476 of 1,024"), (0, 0, "frame 0: 0")]
    )
    def test_an_end_within_a_frame_is_told_after_the_whole_ones(
        self, model, piped, capsys, length, num, text
    ):
        piped(bytes(length))
        assert main([str(model), "-", "--raw", "32x32", "--json"]) == 4
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == num
        assert f"- ends within {text}" in err

    @pytest.mark.parametrize("form", ["32", "0x32", "32x32x2", "9999999x9999999", "axb", "32x32 "])
    def test_another_form_is_refused(self, model, form):
        with pytest.raises(InferError, match="it is WIDTHxHEIGHT of 8-bit pixels") as caught:
            raw_form(form, Student(model))
        assert caught.value.exit_code == 2

    def test_lines_are_for_strings_alone(self, model, capsys):
        assert main([str(model), "--lines", "x.txt"]) == 2
        assert "--lines is for a student of strings" in capsys.readouterr().err

    def test_sound_and_depth_have_forms_of_their_own(self, cored, make, tmp_path, capsys):
        for kind, form, refused in (("wave", "4000", "32x32"), ("depth16", "32x32", "4000")):
            folder, given = cored(kind), make.inputs(make.kind(kind), 2)
            (tmp_path / kind).write_bytes(given.tobytes() + bytes(given[0].nbytes))
            assert main([str(folder), str(tmp_path / kind), "--raw", form, "--json"]) == 4
            out, err = capsys.readouterr()
            found = np.float32([json.loads(line)["embedding"] for line in out.splitlines()])
            np.testing.assert_array_equal(found, [Student(folder)(one[None]).embedding[0] for one in given])
            # The last is silent, or measured nothing.
            assert f"error: {tmp_path / kind}#2 " in err
            assert main([str(folder), str(tmp_path / kind), "--raw", refused]) == 2

    def test_a_frame_is_answered_before_the_next_is_there(self, model, make, tmp_path):
        data = make.images(2)
        command = [sys.executable, "-m", "export.device.infer", model, "-", "--raw", "32x32", "--json"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=take_interrupts
        ) as process:
            for one in data:
                process.stdin.write(one.tobytes())
                process.stdin.flush()
                assert "frame" in json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=1200) == 130
            assert process.stdout.read() == b""


class TestBatches:
    def test_all_ways_of_computing_give_the_same_answers_in_the_same_order(self, model, files, make, capsys):
        Image.fromarray(make.images(1)[0, :20, :, 0]).save(files / "2b.png")
        (files / "3b.png").write_bytes(b"broken")
        expected = None
        for words in (
            ["--batch", "1"],
            [],
            ["--batch", "3"],
            ["--batch", "4", "--readers", "2"],
            ["--threads", "2"],
        ):
            assert main([str(model), str(files), "--json", *words]) == 4
            found = records(capsys)
            assert [Path(one["file"]).name for one in found] == [
                f"{n}.png" for n in ("0", "1", "2", "2b", "3", "4")
            ]
            rows = np.float32([one["embedding"] for one in found])
            # One gate of all profiles: batches may differ by 1e-4 (here they are equal, or all but equal).
            np.testing.assert_allclose(rows, rows if expected is None else expected, atol=1e-4)
            expected = rows

    def test_a_call_that_fails_costs_the_files_alone_that_fail_by_themselves(
        self, model, files, monkeypatch, capsys
    ):
        bad = Student(model).read(files / "3.png")
        calls = []
        real = Student.__call__

        def call(self, inputs, **words):
            calls.append(len(inputs))
            if (inputs == bad).all(axis=(1, 2, 3)).any():
                raise InferError("the engine is broken", exit_code=4)
            return real(self, inputs, **words)

        monkeypatch.setattr(Student, "__call__", call)
        assert main([str(model), str(files), "--json"]) == 4
        out, err = capsys.readouterr()
        assert [Path(json.loads(line)["file"]).name for line in out.splitlines()] == [
            "0.png",
            "1.png",
            "2.png",
            "4.png",
        ]
        assert err == f"error: {files / '3.png'}: the engine is broken\n"
        assert calls == [5, 1, 1, 1, 1, 1]

    def test_inputs_of_one_shape_are_computed_together(self):
        shapes = [(2, 2, 1), (3, 2, 1), (2, 2, 1)]
        given = [Given(str(n), "", Reading(np.full(shape, n, np.uint8))) for n, shape in enumerate(shapes)]
        calls = []

        def student(inputs):
            calls.append(inputs.shape)
            return Prediction(inputs[:, 0, 0], None)

        broken = Failed("x", InferError("no", exit_code=4))
        found = predicted(student, [given[0], broken, *given[1:]])
        assert calls == [(2, 2, 2, 1), (1, 3, 2, 1)]
        assert found[1] is broken
        assert [int(one[1].embedding[0, 0]) for one in found if one is not broken] == [0, 1, 2]

    def test_groups_are_cut_by_number_and_by_bytes(self, monkeypatch):
        items = [Given("", "", Reading(np.zeros(size, np.uint8))) for size in (1, 1, 1, 50, 1)]
        assert [len(one) for one in groups(iter(items), num=2)] == [2, 2, 1]
        monkeypatch.setattr("export.device.intake.GROUP_BYTES", 50)
        assert [len(one) for one in groups(iter(items), num=9)] == [4, 1]

    @pytest.mark.parametrize("readers", [0, 1, 3])
    def test_tasks_are_read_in_order_and_few_ahead(self, readers):
        begun = []

        def task(num):
            return Task(
                lambda: begun.append(num) or Failed(str(num), InferError("", exit_code=4)), num % 3 == 0
            )

        left = loaded((task(num) for num in range(20)), readers=readers)
        for num, one in enumerate(left):
            assert one.name == str(num)
            assert max(begun) <= num + 2 * readers
        assert sorted(begun) == list(range(20))

    @pytest.mark.parametrize(
        "words", [["--batch", "0"], ["--threads", "0"], ["--readers", "-1"], ["--batch", "2000"]]
    )
    def test_numbers_have_limits(self, model, words, capsys):
        assert main([str(model), "x.png", *words]) == 2
        assert f"{words[0]} {words[1]} is not from" in capsys.readouterr().err


class TestForms:
    def test_csv_has_the_same_columns_in_each_row(self, model, files, capsys):
        (files / 'a "b", c.png').write_bytes((files / "0.png").read_bytes())
        assert main([str(model), str(files), "--json", "--scores"]) == 0
        expected = records(capsys)
        assert main([str(model), str(files), "--format", "csv", "--scores"]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert len(rows) == len(expected) == 6
        for row, one in zip(rows, expected, strict=True):
            assert row["file"] == one["file"]
            assert row["class"] == one["top"][0]["class"]
            assert float(row["probability"]) == one["top"][0]["probability"]
            assert float(row["score:fish"]) == one["scores"]["fish"]
            found = np.float32([float(row[f"e{place}"]) for place in range(16)])
            np.testing.assert_array_equal(found, np.float32(one["embedding"]))
            assert None not in row

    def test_npy_has_names_and_embeddings_and_no_pickle(self, model, files, tmp_path, capsys):
        assert (
            main(
                [
                    str(model),
                    str(files),
                    "missing.png",
                    "--format",
                    "npy",
                    "--output",
                    str(tmp_path / "e.npy"),
                ]
            )
            == 4
        )
        found = np.load(tmp_path / "e.npy", allow_pickle=False)
        assert found["file"].tolist() == [str(files / f"{row}.png") for row in range(5)]
        assert found["embedding"].dtype == np.float32
        images = np.stack([Student(model).read(files / f"{row}.png") for row in range(5)])
        np.testing.assert_allclose(found["embedding"], Student(model)(images).embedding, atol=1e-4)
        assert capsys.readouterr().out == ""

    def test_an_array_goes_into_a_pipe_and_not_onto_a_terminal(self, model, files, monkeypatch, capfdbinary):
        assert main([str(model), str(files), "--format", "npy", "--check"]) == 0
        out, err = capfdbinary.readouterr()
        assert len(np.load(io.BytesIO(out))) == 5
        assert b"golden values" in err
        monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
        assert main([str(model), str(files), "--format", "npy"]) == 2

    def test_a_file_takes_its_place_when_all_is_there(self, model, files, tmp_path, monkeypatch, capsys):
        target = tmp_path / "out" / "answers.jsonl"
        assert main([str(model), str(files), "--json", "--output", str(target)]) == 4
        assert "cannot be written: No such file or directory" in capsys.readouterr().err
        target.parent.mkdir()
        target.write_text("old")
        stops = iter([False, False, True])

        def line(self, text):
            if next(stops):
                raise KeyboardInterrupt
            self.data(text.encode())

        with monkeypatch.context() as changed:
            changed.setattr(Sink, "line", line)
            assert main([str(model), str(files), "--json", "--output", str(target)]) == 130
        assert target.read_text() == "old"
        assert [one.name for one in target.parent.iterdir()] == ["answers.jsonl"]
        assert main([str(model), str(files), "--json", "--output", str(target)]) == 0
        assert len(target.read_text().splitlines()) == 5
        assert [one.name for one in target.parent.iterdir()] == ["answers.jsonl"]
        assert capsys.readouterr().out == ""

    def test_a_file_that_is_no_plain_one_is_written_into_and_stays(self, model, files, tmp_path, capsys):
        link = tmp_path / "null"
        link.symlink_to("/dev/null")
        assert main([str(model), str(files), "--output", str(link)]) == 0
        assert link.is_symlink()
        assert Path("/dev/null").exists()
        assert not Path("/dev/null").is_file()
        assert main([str(model), str(files), "--output", str(tmp_path)]) == 2


def test_draft_decodes_large_jpegs_as_training_does(model, tmp_path, capsys):
    ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8) // 2
    ramp[::3, ::5] = 0
    Image.fromarray(ramp).save(tmp_path / "large.jpg", quality=95)
    Image.fromarray(ramp[:64, :64]).save(tmp_path / "small.jpg", quality=95)
    assert main([str(model), str(tmp_path), "--json"]) == 0
    whole = records(capsys)
    assert main([str(model), str(tmp_path), "--json", "--draft"]) == 0
    draft = records(capsys)
    assert draft[1] == whole[1]
    assert draft[0] != whole[0]
    assert np.dot(draft[0]["embedding"], whole[0]["embedding"]) > 0.99
    assert main([str(model), str(tmp_path), "--draft"]) == 0
    assert "(resized from 256x256)" in capsys.readouterr().out
    assert main([str(model), str(tmp_path), "--draft", "--raw", "32x32"]) == 2


def mixed(folder, make):
    """1,000 files of all kinds in folders; names of those that can be answered, and of those that cannot."""
    image, good, bad = make.images(1)[0, :, :, 0], [], []
    png, gif = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(png, format="png")
    Image.fromarray(image).save(gif, format="gif")
    bomb = bytearray(png.getvalue())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    written = {}
    for mode, ending, kind in (
        ("L", "png", "png"), ("RGB", "jpg", "jpeg"), ("RGB", "webp", "webp"), ("P", "gif", "gif"),
        ("RGBA", "png", "png"), ("LA", "png", "png"), ("1", "bmp", "bmp"), ("RGB", "ppm", "ppm"),
        ("P", "png", "png"), ("L", "tif", "tiff"),
    ):  # fmt: skip
        data = io.BytesIO()
        Image.fromarray(image).resize((24, 40)).convert(mode).save(data, format=kind)
        written[f"{mode}.{ending}"] = data.getvalue()
    deep = io.BytesIO()
    Image.new("I;16", (32, 32), 40000).save(deep, format="png")
    broken = {
        "deep.png": deep.getvalue(), "empty.png": b"", "cut.png": png.getvalue()[:300], "text.jpg": b"hello",
        "bomb.png": bytes(bomb), "cut.gif": gif.getvalue()[:40], "array.npy": b"\x93NUMPY\1\0",
        "huge.pgm": b"P5 90000 90000 255 ",
    }  # fmt: skip
    for num in range(1000):
        place = folder / f"{num // 100}"
        place.mkdir(parents=True, exist_ok=True)
        if num % 20 == 7:
            name = [*broken][(num // 20) % len(broken)]
            data, into = broken[name], bad
        elif num % 20 == 11:
            name, data, into = "notes.txt", b"no picture", None
        else:
            name = [*written][num % len(written)]
            data, into = written[name], good
        path = place / f"{num:04}-{name}"
        path.write_bytes(data)
        if into is not None:
            into.append(str(path))
    return good, bad


def test_a_folder_of_1000_mixed_files(model, make, tmp_path, capsys):
    good, bad = mixed(tmp_path / "in", make)
    assert (len(good), len(bad)) == (900, 50)
    assert main([str(model), str(tmp_path / "in"), "--json"]) == 4
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["file"] for one in found] == good
    lines = err.splitlines()
    assert lines[0] == f"note: {tmp_path / 'in'} has files that are not read: 50 .txt."
    assert len(lines) == 51
    for line, name in zip(lines[1:], bad, strict=True):
        assert line.startswith(f"error: {name} ")
    # Equal files have equal answers, whatever was computed beside them.
    kinds = {}
    for one in found:
        row = kinds.setdefault(one["file"].split("-")[-1], np.float32(one["embedding"]))
        np.testing.assert_allclose(np.float32(one["embedding"]), row, atol=1e-4)
    assert len(kinds) == 10


def test_a_named_pipe_and_a_missing_file_of_frames(model, make, tmp_path):
    image = make.images(1)[0]
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen(["sh", "-c", f"cat > {tmp_path / 'pipe'}"], stdin=subprocess.PIPE)
    form = raw_form("32x32", Student(model))
    process.stdin.write(image.tobytes())
    process.stdin.close()
    (only,) = [task.read() for task in raw_tasks(str(tmp_path / "pipe"), form)]
    assert process.wait() == 0
    np.testing.assert_array_equal(only.reading.values, image)
    for wrong, text in ((tmp_path, "is a folder"), (tmp_path / "missing", "cannot be read")):
        (failed,) = [task.read() for task in raw_tasks(str(wrong), form)]
        assert text in str(failed.error)
