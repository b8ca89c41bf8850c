"""`edgecmd data check` names what `edgecmd run` refuses with the same settings, as a user types both."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run
from tests.device_files import picture, write_pairs, write_public
from tests.made_up_sound import write_wav

SIDE, NUM = 16, 30
SETTINGS = (
    f"data.image_size={SIDE}",
    "data.strict=false",
    "student.architecture=ws-50k",
    "distill.num_anchors=16",
    "federation.num_clients=2",
)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))


def sets(*more: str) -> list[str]:
    return [word for one in (*SETTINGS, *more) for word in ("--set", one)]


def good() -> Path:
    # In full: what was read is kept for a process by its settings, and each test has a folder of its own.
    folder = write_pairs(Path.cwd() / "mine", range(NUM))
    write_public(folder / "public")
    return folder


def changed(change: Callable[[Path], object]) -> Callable[[], Path]:
    def make() -> Path:
        folder = good()
        change(folder)
        return folder

    return make


def examples(folder: Path, *names: str, broken: bool = False) -> None:
    """Pictures of some classes beside the pairs."""
    for number, name in enumerate(names):
        (folder.parent / "classes" / name).mkdir(parents=True)
        picture(number, colour=False).save(folder.parent / "classes" / name / "a.png")
    if broken:
        (folder.parent / "classes" / names[0] / "broken.png").write_bytes(b"cut")


def table(name: str, text: str) -> Callable[[], Path]:
    return changed(lambda folder: (folder / name).write_text(text))


def recordings() -> Path:
    folder = good()
    for path in sorted((folder / "target").iterdir()):
        path.unlink()
        noise = np.random.default_rng(int(path.stem[1:])).normal(size=8000)
        write_wav(path.with_suffix(".wav"), 0.2 * np.tanh(noise))
    return folder


def npz(**changes: object) -> Callable[[], Path]:
    def make() -> Path:
        content = {
            "source": np.stack([np.asarray(picture(row, colour=True)) for row in range(NUM)]),
            "target": np.stack([np.asarray(picture(99 + row, colour=False)) for row in range(NUM)]),
            "public": np.stack([np.asarray(picture(999 + row, colour=True)) for row in range(12)]),
        }
        content |= {name: np.asarray(array) for name, array in changes.items()}
        np.savez("set.npz", **content)
        return Path.cwd() / "set.npz"

    return make


# What is given -> settings, and what both commands say; nothing where a run can start.
CASES: dict[str, tuple[Callable[[], Path], tuple[str, ...], str]] = {
    "good": (good, (), ""),
    "good archive": (npz(), (), ""),
    "sound": (recordings, ("student.architecture=audio-50k",), ""),
    "a misspelt student": (good, ("student.architecture=ws-50",), "student.architecture='ws-50' is unknown"),
    "a misspelt loss": (good, ("distill.loss=cmcc",), "distill.loss='cmcc' is unknown"),
    "a misspelt split": (good, ("data.split=concepts",), "data.split='concepts' is unknown"),
    "a misspelt kind": (good, ("data.target_kind=gray",), "data.target_kind='gray' is unknown"),
    "a misspelt profile": (good, ("export.profiles=w9",), "export.profiles='w9' is unknown"),
    "a student of sound": (good, ("student.architecture=audio-50k",), "does not take the targets"),
    "a student of pictures": (recordings, (), "does not take the targets"),
    "another kind": (good, ("data.target_kind=depth",), "data.target_kind='depth', but the targets"),
    "too many clients": (good, ("federation.num_clients=50",), "federation.num_clients=50 needs 100"),
    "no owners": (good, ("federation.partition=owner",), "federation.partition='owner' follows"),
    "no labels": (good, ("federation.partition=dirichlet",), "federation.partition='dirichlet' follows"),
    "owners to hold out": (good, ("data.split=owner",), "which are in no pairs.csv"),
    "held out without owners": (good, ("data.held_out=o1",), "data.split='concept' does not follow them"),
    "no private loss": (good, ("privacy.mechanism=anchors", "distill.loss=cmc"), "cannot be made private"),
    "a teacher that is not there": (good, ("teacher.path=/nowhere.safetensors",), "/nowhere.safetensors"),
    "two teachers": (good, ("teacher.name=icons2",), "teacher.name='icons2'"),
    "reversed without a teacher": (
        good,
        ("data.reverse=true",),
        "No teacher for data.reverse=true comes with edgecmd",
    ),
    "no public folder": (good, ("data.public_path=/nowhere",), "is not an existing folder"),
    "proximal": (good, ("federation.strategy=fedprox",), "needs distill.proximal_mu above 0"),
    "fold": (good, ("export.fold_norm=true",), "has no GroupNorm to fold"),
    "prototypes": (good, ("export.prototypes=/nowhere",), "export.prototypes='/nowhere' is not a folder"),
    "no prototype": (
        changed(lambda one: (one.parent / "classes").mkdir()),
        ("export.prototypes=classes",),
        "classes has no pictures",
    ),
    "one prototype": (
        changed(lambda one: examples(one, "cup")),
        ("export.prototypes=classes",),
        "classes has only the class cup",
    ),
    "a broken prototype": (
        changed(lambda one: examples(one, "cup", "hat", broken=True)),
        ("export.prototypes=classes",),
        "broken.png",
    ),
    "two prototypes": (changed(lambda one: examples(one, "cup", "hat")), ("export.prototypes=classes",), ""),
    "calibrated sound": (
        recordings,
        ("student.architecture=audio-50k", "export.profiles=int8"),
        "",
    ),
    "larger than the files": (good, ("data.image_size=224",), "needs 224 at least"),
    "one grey": (
        changed(lambda one: picture(5, colour=True).save(one / "target" / "p003.png")),
        (),
        "has grey images, 29",
    ),
    "a text": (changed(lambda one: (one / "source/p003.png").write_text("x")), (), "cannot be decoded"),
    "iPhone": (changed(lambda one: (one / "source/p900.heic").write_bytes(b"x")), (), "1 .heic (p900.heic)"),
    "half a pair": (changed(lambda one: (one / "source/p003.png").unlink()), (), "without a file in source"),
    "public is private": (
        changed(lambda one: picture(6, colour=True).save(one / "public/x.png")),
        (),
        "Public images are also the source of a pair",
    ),
    "an empty public": (
        changed(lambda one: [path.unlink() for path in (one / "public").iterdir()]),
        (),
        "public has no image",
    ),
    "one concept": (
        table("pairs.csv", "id,concept\n" + "".join(f"p{row:03d},c\n" for row in range(NUM))),
        (),
        "1 concept over 30 pairs gives",
    ),
    "lost zeros": (table("labels.csv", "id,label\np1,a\n"), (), "without leading zeros"),
    "a misspelt table": (table("Labels.csv", "id,label\n"), (), "Did you mean 'labels.csv'?"),
    "masks of nothing": (
        changed(lambda one: write_public(one / "target_mask", 1)),
        (),
        "masks without a pair: 1 (public000)",
    ),
    "an id twice": (npz(id=["a"] * NUM), (), "repeats 1 (a) in id"),
    "an id of no axis": (npz(id="x"), (), "has id of dtype=<U1 and shape=()"),
    "labels of bytes": (npz(label=[b"a", b"b"] * 15), (), "Convert it with numpy.char.decode"),
    "labels of numbers with a point": (npz(label=np.arange(30.0)), (), "has label of dtype=float64"),
    "owners of another length": (npz(owner=np.arange(4)), (), "has 4 rows of owner for 30 of source"),
    "nothing public": (npz(public=np.zeros((0, 16, 16, 3), np.uint8)), (), "which is empty"),
    "no rate": (npz(target=np.ones((30, 8000), np.int16)), (), "has recordings and target_rate_hz: none"),
    "a rate of 0": (
        npz(target=np.ones((30, 8000), np.int16), target_rate_hz=0),
        (),
        "target_rate_hz=0; allowed are",
    ),
    "nowhere": (lambda: Path("nowhere"), (), "does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_check_predicts_run(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, settings, sentence = CASES[case]
    path = make()
    words = sets(*settings)
    checked = run(monkeypatch, "data", "check", path, *words, "--json")
    told = json.loads(capsys.readouterr().out)
    ran = run(
        monkeypatch, "run", "--dry-run", "--set", "data.name=folder", "--set", f"data.path={path}", *words
    )
    refused = capsys.readouterr().err
    assert checked == ran
    assert told["ok"] == (ran == 0) == (not sentence)
    if sentence:
        # The run's one sentence is the first of the list, up to the words on how to see the others.
        first = told["problems"][0]["problem"]
        assert sentence in " ".join(one["problem"] for one in told["problems"])
        assert first in refused.removeprefix("edgecmd: ")
        assert "Traceback" not in refused
        assert "Unexpected" not in refused


def test_all_is_listed_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, what is seen without opening pictures, and what is seen in them."""
    folder = good()
    (folder / "source" / "p900.heic").write_bytes(b"x")
    (folder / "source" / "p003.png").write_text("x")
    (folder / "labels.csv").write_text("id,label\nzz,a\n")
    assert run(monkeypatch, "data", "check", folder, *sets("distill.loss=cmcc")) == 2
    told = capsys.readouterr()
    for text in ("distill.loss='cmcc'", "1 .heic", "p003.png cannot be decoded", "without a pair: 1 (zz)"):
        assert text in told.out
    assert "mine: 4 problems, listed above." in told.err


def test_a_misspelt_set_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = sets("data.name=sketchyy", "teacher.name=nope", "student.architecture=ws-5k")
    assert run(monkeypatch, "data", "check", good(), *words) == 2
    out = capsys.readouterr().out
    for text in ("Did you mean 'sketchy'?", "teacher.name='nope'", "student.architecture='ws-5k'"):
        assert out.count(text) == 1


def test_many_files_with_one_fault_are_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = good()
    assert run(monkeypatch, "data", "check", folder, *sets("data.image_size=32")) == 4
    out = capsys.readouterr().out
    assert f"... and 27 more of this kind: {folder}/target/p003.png, {folder}/target/p004.png, ..." in out
    assert len([line for line in out.splitlines() if "needs 32" in line]) <= 8


def test_what_is_read_and_how_it_is_split_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = good()
    rows = "".join(f"p{row:03d},o{row % 3},c{row // 2}\n" for row in range(NUM))
    (folder / "pairs.csv").write_text("id,owner,concept\n" + rows)
    (folder / "labels.csv").write_text("id;label\n" + "".join(f"p{row:03d};l\n" for row in range(NUM)))
    assert run(monkeypatch, "data", "check", folder, *sets()) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "pairs 30",
        "source rgb, 16 x 16 pixels, 3 channels",
        "target grey, 16 x 16 pixels, 1 channel",
        "owners 3",
        "concepts 15",
        "labels 1",
        "masks none given",
        "public set mine/public, 12 images",
        "the test has unseen concepts",
        f"note: {folder}/labels.csv has semicolons between its cells and was read accordingly.",
        f"{folder}: no problems found.",
    ):
        assert text in out
    assert (
        run(monkeypatch, "run", "--dry-run", "--set", "data.name=folder", *sets(f"data.path={folder}")) == 0
    )
    assert f"note: {folder}/labels.csv has semicolons" in capsys.readouterr().out


def test_json_is_all_that_stdout_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "check", good(), *sets(), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert told["read"]["pairs"] == "30"
    assert run(monkeypatch, "data", "check", "nowhere", "--json") == 4
    caught = capsys.readouterr()
    assert json.loads(caught.out)["problems"][0]["exit_code"] == 4
    assert "1 problem, listed above" in caught.err


@pytest.mark.parametrize("side", [80, pytest.param(224, marks=pytest.mark.slow)])
def test_large_pictures_without_public_ones(
    side: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in pictures, of 64 pixels, are enlarged, and a person is told."""
    for row in range(20):
        for half, mode in (("source", "RGB"), ("target", "L")):
            path = Path(f"large{side}", half, f"{row:02d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).convert(mode).save(path)
    words = sets(f"data.image_size={side}")
    assert run(monkeypatch, "data", "check", f"large{side}", *words) == 0
    out = capsys.readouterr().out
    assert f"note: The built-in public images have 64 pixels and are enlarged to {side}." in out
    assert f"large{side}: no problems found." in out
    assert (
        run(
            monkeypatch,
            "run",
            "--dry-run",
            "--set",
            "data.name=folder",
            *words,
            "--set",
            f"data.path=large{side}",
        )
        == 0
    )
