"""A store holds what the files hold, is built once, survives a kill and is made anew for a changed file."""

import json
import os
import shutil
import stat
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecmd.cli.data import stores as stores_command
from edgecmd.core.errors import ConfigError, DataError, EdgecmdError, MachineError
from edgecmd.data import duplicates
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.modalities import image
from edgecmd.data.modalities import row as modality_row
from edgecmd.data.stored import store
from edgecmd.data.stored import through_store as through
from edgecmd.data.stored.array_files import LazyRows
from edgecmd.data.stored.store import Build, Form, Key, find, key_of, stores_folder, writing
from edgecmd.data.user_files import folder as folder_module
from edgecmd.settings import DataConfig
from tests.edgecmd.data.layouts import trees
from tests.user_files import check_folder, read_pairs

NUM = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_pairs(path: Path, *, num: int = NUM, seed: int = 0, side: int = 16, depth: bool = False) -> Path:
    noise = np.random.default_rng(seed)
    for half in ("source", "target"):
        (path / half).mkdir(parents=True)
    for row in range(num):
        source = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(source).save(path / "source" / f"p{row:03}.png")
        target = noise.integers(0, 256, (side, side), dtype=np.uint8)
        if depth:
            target = noise.integers(500, 4000, (side, side)).astype(np.uint16)
        Image.fromarray(target).save(path / "target" / f"p{row:03}.png")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


def config(path: Path, **changes: object) -> DataConfig:
    made = DataConfig(name="folder", path=str(path), image_size=16, strict=False, store="always")
    return replace(made, **changes)  # type: ignore[arg-type]


def in_memory(path: Path, **changes: object) -> Experiment:
    return load_experiment(config(path, store="never", **changes))


def stores() -> list[str]:
    found = stores_folder()
    return sorted(one.name for one in found.iterdir() if one.is_dir()) if found.is_dir() else []


def assert_same(found: Experiment, wanted: Experiment) -> None:
    assert found.train_ids == wanted.train_ids
    assert found.notes == wanted.notes
    for name in ("train", "validation", "test", "test_strict"):
        one, other = getattr(found, name), getattr(wanted, name)
        for half in ("source", "target"):
            pairs, expected = (one, other) if name == "train" else (one.pairs, other.pairs)
            assert isinstance(getattr(pairs, half), LazyRows)
            np.testing.assert_array_equal(np.asarray(getattr(pairs, half)), getattr(expected, half))
    assert found.public.keys == wanted.public.keys
    np.testing.assert_array_equal(np.asarray(found.public.images), wanted.public.images)
    assert found.all_copies().source.tolist() == wanted.all_copies().source.tolist()


def test_pairs_of_a_store_are_those_in_memory(folder: Path) -> None:
    assert_same(load_experiment(config(folder)), in_memory(folder))
    assert len(stores()) == 1


def test_depth_and_its_notes_are_the_same(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "depth", depth=True)
    assert_same(load_experiment(config(path)), in_memory(path))
    assert "depth maps" in " ".join(load_experiment(config(path)).notes)


@pytest.mark.parametrize("kind", ["grey", "auto", "rgb"])
def test_colours_are_the_same(kind: str, folder: Path) -> None:
    for path in sorted((folder / "target").iterdir()):
        Image.open(path).convert("RGB").save(path)
    found = load_experiment(config(folder, target_kind=kind))
    assert_same(found, in_memory(folder, target_kind=kind))
    assert found.train.target.shape[3] == (1 if kind == "grey" else 3)


def test_pairs_that_are_turned_round_are_the_same(folder: Path) -> None:
    public = folder / "public"
    public.mkdir()
    for row in range(4):
        noise = np.random.default_rng(100 + row).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).save(public / f"{row}.png")
    for kind in ("rgb", "grey"):
        changes = {"reverse": True, "source_size": 16, "target_kind": kind}
        assert_same(load_experiment(config(folder, **changes)), in_memory(folder, **changes))


def test_a_store_is_read_without_opening_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_experiment(config(folder))
    monkeypatch.setattr(folder_module, "read_halves", lambda *_: pytest.fail("a picture was opened"))
    assert load_experiment(config(folder)).train.fingerprint() == first.train.fingerprint()


@pytest.mark.parametrize("change", ["pixels", "time", "new", "gone"])
def test_a_changed_file_gives_a_new_store_and_the_old_one_goes(change: str, folder: Path) -> None:
    load_experiment(config(folder))
    (old,) = stores()
    path = folder / "source" / "p003.png"
    if change == "pixels":
        Image.fromarray(np.full((16, 16, 3), 7, np.uint8)).save(path)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "new":
        for half in ("source", "target"):
            shutil.copy(folder / half / "p003.png", folder / half / "p900.png")
    else:
        for half in ("source", "target"):
            (folder / half / "p003.png").unlink()
    assert_same(load_experiment(config(folder)), in_memory(folder))
    (new,) = stores()
    assert new != old


def test_other_settings_have_a_store_of_their_own(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs", side=32)
    for size in (16, 32, 16):
        assert load_experiment(config(path, image_size=size)).train.target.shape[1] == size
    assert len(stores()) == 2


class KilledError(Exception):
    """Stands for a signal."""


def killed_at(row: int) -> pytest.MonkeyPatch:
    """The build ends at ``row`` as a killed process does: nothing is noted or put in order."""
    real, seen = folder_module.read_halves, []

    def read(*arguments: object) -> object:
        if len(seen) == row:
            raise KilledError
        seen.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    context = pytest.MonkeyPatch()
    context.setattr(folder_module, "read_halves", read)
    # Closed, so that no test leaks; what was written since the last note of the rows is there, unnoted.
    context.setattr(Build, "__exit__", lambda self, *_: self._close())
    return context


@settings(max_examples=6, deadline=None)
@given(rows=st.lists(st.integers(0, NUM - 1), min_size=1, max_size=3), synced=st.sampled_from([1, 4, 7, 256]))
def test_a_build_that_was_killed_ends_with_the_same_bytes(
    rows: list[int], synced: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("killed")
    path = write_pairs(base / "pairs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGECMD_CACHE", str(base / "whole"))
        load_experiment(config(path))
        (whole,) = (one for one in stores_folder().iterdir() if one.is_dir())
        patched.setenv("EDGECMD_CACHE", str(base / "cache"))
        patched.setattr(store, "SYNCED", synced)
        for row in rows:
            context = killed_at(row)
            try:
                load_experiment(config(path))
            except KilledError:
                assert find(Key(what="x", state="y")) is None
                assert all(name.endswith(store.PART) for name in stores())
            context.undo()
        load_experiment(config(path))
        (found,) = (one for one in stores_folder().iterdir() if one.is_dir())
        files = ("source.npy", "store.json", "target.npy")
        assert all((found / name).read_bytes() == (whole / name).read_bytes() for name in files)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_build_goes_on_where_it_was_interrupted(
    num_threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = folder_module.read_halves, list[Path]()

    def read(source: Path, *others: object) -> object:
        opened.append(source)
        if len(opened) == 10:
            raise KeyboardInterrupt
        return real(source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "read_halves", read)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        load_experiment(config(folder, num_threads=num_threads))
    assert threading.active_count() == before
    found = load_experiment(config(folder, num_threads=num_threads))
    # The tenth is opened twice, no other one but what threads had read ahead.
    assert NUM < len(opened) <= NUM + (1 if num_threads == 1 else through.AHEAD * num_threads)
    monkeypatch.undo()
    assert_same(found, in_memory(folder))


def test_bytes_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = write_pairs(tmp_path / "depth", depth=True), set[bytes]()
    real = folder_module.read_halves

    def read(source: Path, *others: object) -> object:
        # Those at even places are slower than those behind them.
        time.sleep(0.004 * (int(source.stem[1:]) % 2 == 0))
        return real(source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "read_halves", read)
    for num in (1, 2, 5, 0):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / f"cache-{num}"))
        load_experiment(config(path, num_threads=num))
        (name,) = stores()
        files = sorted((stores_folder() / name).glob("*.*"))
        found.add(b"".join(one.read_bytes() for one in files if one.stem in ("source", "target", "store")))
    assert len(found) == 1


def test_threads_read_no_further_ahead_than_they_may(folder: Path) -> None:
    asked = list[int]()

    def read(row: int) -> dict[str, np.ndarray]:
        asked.append(row)
        return {}

    made = config(folder, num_threads=2)
    listed = through.Listed(what="x", files=(), config=made, row_bytes=1, read=read, forms=dict)
    every = through._all_read(listed, range(1000))
    for num in range(1, 20):
        next(every)
        assert len(asked) < num + 2 * through.AHEAD
    every.close()


def test_warnings_are_as_they_were_after_threads(folder: Path) -> None:
    before = list(warnings.filters)
    load_experiment(config(folder, num_threads=4))
    assert list(warnings.filters) == before


@pytest.mark.parametrize("damage", ["short", "noted", "none", "long"])
def test_a_half_built_store_that_does_not_fit_its_notes_is_made_anew(
    damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SYNCED", 4)
    context = killed_at(9)
    with pytest.raises(KilledError):
        load_experiment(config(folder))
    context.undo()
    (part,) = (one for one in stores_folder().iterdir() if one.is_dir())
    if damage == "short":
        os.truncate(part / "target.npy", 300)
    elif damage == "noted":
        (part / store.DONE).write_text("{")
    elif damage == "none":
        (part / store.DONE).unlink()
    else:
        with (part / "source.npy").open("ab") as file:
            file.write(b"x" * 5000)
    assert_same(load_experiment(config(folder)), in_memory(folder))


@pytest.mark.parametrize("damage", ["cut", "text", "array", "fewer"])
def test_a_damaged_store_is_made_anew(damage: str, folder: Path) -> None:
    load_experiment(config(folder))
    (whole,) = (one for one in stores_folder().iterdir() if one.is_dir())
    if damage == "cut":
        os.truncate(whole / "source.npy", 500)
    elif damage == "text":
        (whole / "store.json").write_text("[")
    elif damage == "array":
        (whole / "target.npy").unlink()
    else:
        np.save(whole / "target.npy", np.zeros((3, 16, 16, 1), np.uint8))
    assert_same(load_experiment(config(folder)), in_memory(folder))


def test_nobody_else_may_read_a_store(folder: Path) -> None:
    load_experiment(config(folder))
    (whole,) = (one for one in stores_folder().iterdir() if one.is_dir())
    assert stat.S_IMODE(stores_folder().stat().st_mode) == 0o700
    assert stat.S_IMODE(whole.stat().st_mode) == 0o700
    assert {stat.S_IMODE((whole / name).stat().st_mode) for name in ("source.npy", "target.npy")} == {0o600}


def test_a_link_in_the_place_of_a_store_is_not_followed(folder: Path, tmp_path: Path) -> None:
    load_experiment(config(folder))
    (name,) = stores()
    shutil.rmtree(stores_folder() / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (stores_folder() / name).symlink_to(elsewhere)
    with pytest.raises(MachineError, match="is a link, which edgecmd did not make. Delete it."):
        load_experiment(config(folder))
    (stores_folder() / name).unlink()
    (stores_folder() / f"{name}{store.PART}").symlink_to(elsewhere)
    load_experiment(config(folder))
    assert not list(elsewhere.iterdir())


def test_a_broken_file_leaves_no_store_and_is_told_as_in_memory(folder: Path) -> None:
    (folder / "target" / "p005.png").write_bytes(b"no picture")
    (folder / "source" / "p011.png").write_bytes(b"")
    told = check_folder(folder, config(folder))
    assert told == check_folder(folder, config(folder, store="never"))
    assert len(told) == 2
    assert stores() == []


def test_kinds_that_do_not_mix_are_told_as_in_memory(folder: Path) -> None:
    noise = np.random.default_rng(5).integers(1, 4000, (16, 16)).astype(np.uint16)
    Image.fromarray(noise).save(folder / "target" / "p007.png")
    told = check_folder(folder, config(folder))
    assert told == check_folder(folder, config(folder, store="never"))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "target" / "p007.png")
    told = check_folder(folder, config(folder))
    assert told == check_folder(folder, config(folder, store="never"))
    assert "grey images" in told[0]
    assert stores() == []


def test_a_folder_that_may_not_be_written_is_read(folder: Path) -> None:
    wanted = in_memory(folder)
    for path in (folder / "source", folder / "target", folder):
        path.chmod(0o500)
    try:
        assert_same(load_experiment(config(folder)), wanted)
    finally:
        for path in (folder, folder / "source", folder / "target"):
            path.chmod(0o700)


def test_a_disk_without_space_is_told_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=r"about 24\.6 kB are needed, 1\.0 kB are free"):
        load_experiment(config(folder))
    assert all(not list((stores_folder() / name).glob("*.npy")) for name in stores())


def test_a_cache_that_cannot_be_made_is_told(folder: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(MachineError, match=r"data\.store='never' to hold the pairs in memory"):
        load_experiment(config(folder))


def test_two_that_read_the_same_pairs_build_one_store(folder: Path) -> None:
    found: list[Experiment | Exception] = []

    def load() -> None:
        try:
            found.append(load_experiment(config(folder)))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    wanted = in_memory(folder)
    for one in found:
        assert isinstance(one, Experiment), one
        assert_same(one, wanted)
    assert len(found) == 3
    assert len(stores()) == 1


ARCHIVES = {
    "grey": ("uint8", (32, 32)),
    "grey with an axis": ("uint8", (16, 16, 1)),
    "colour": ("uint8", (32, 32, 3)),
    "depth": ("uint16", (32, 32)),
    "sound": ("int16", (4000,)),
}


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("named", [True, False])
def test_an_archive_is_the_same_from_a_store(kind: str, named: bool, tmp_path: Path) -> None:
    dtype, shape = ARCHIVES[kind]
    noise = np.random.default_rng(2)
    arrays = {
        "source": noise.integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8),
        "target": noise.integers(1, 200, (NUM, *shape)).astype(dtype),
        "public": noise.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
    }
    if kind == "sound":
        arrays |= {"target": 100 * arrays["target"], "target_rate_hz": np.int64(8000)}
    if named:
        arrays |= {"id": np.array([f"n{97 * row % 89:02}" for row in range(NUM)])}
        arrays |= {"label": np.array([f"l{row % 3}" for row in range(NUM)])}
    path = tmp_path / "pairs.npz"
    np.savez_compressed(path, **arrays)
    assert_same(load_experiment(config(path)), in_memory(path))
    assert_same(load_experiment(config(path)), in_memory(path))
    # One of the pairs, one of the public images.
    assert len(stores()) == 2
    assert isinstance(load_experiment(config(path)).public.images, LazyRows)
    if kind == "colour":
        changes = {"target_kind": "grey"}
        assert_same(load_experiment(config(path, **changes)), in_memory(path, **changes))


def test_a_damaged_archive_is_told_once_and_leaves_no_store(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    noise = np.random.default_rng(2).integers(0, 256, (2, NUM, 16, 16, 3), dtype=np.uint8)
    np.savez(path, source=noise[0], target=noise[1])
    data = bytearray(path.read_bytes())
    # A number of the first array is another one, which the archive's checksum tells.
    data[5000] ^= 255
    path.write_bytes(data)
    told = check_folder(path, config(path))
    assert len(told) == 1
    assert "The file is damaged; create it again." in told[0]
    assert stores() == []


@pytest.mark.parametrize("form", ["folder", "npz"])
@pytest.mark.parametrize("where", ["always", "never"])
def test_no_more_pairs_are_used_than_were_asked_for(
    form: str, where: str, folder: Path, tmp_path: Path
) -> None:
    path = folder
    if form == "npz":
        pairs, path = read_pairs(folder, config(folder, store="never")), tmp_path / "pairs.npz"
        ids = np.array([f"p{row:03}" for row in range(NUM)])
        np.savez(path, source=pairs.source, target=pairs.target, id=ids)
    (folder / "pairs.csv").write_text("id,owner\n" + "".join(f"p{row:03},o{row}\n" for row in range(NUM)))
    whole = load_experiment(config(path, store=where, max_pairs=NUM))
    found = load_experiment(config(path, store=where, max_pairs=20))
    assert len(found.sorted_ids()) == 20
    assert {*found.sorted_ids()} < {*whole.sorted_ids()}
    assert (
        f"20 of {NUM} pairs are used, chosen by a hash of their ids; data.max_pairs=0 uses all."
        in found.notes
    )
    rows = [int(one[1:]) for one in found.train_ids]
    expected = read_pairs(folder, config(folder, store="never")).target[rows]
    np.testing.assert_array_equal(np.asarray(found.train.target), expected)
    if form == "folder":
        owners = [found.train_owner.names[code] for code in found.train_owner.values]
        assert owners == [f"o{row}" for row in rows]
    with pytest.raises(ConfigError, match=r"data\.max_pairs=20 would leave out 4 of 24 pairs"):
        load_experiment(config(path, store=where, max_pairs=20, copies="leave-out"))


def test_a_public_set_is_the_same_from_a_store(tmp_path: Path) -> None:
    path = trees.sketchy(tmp_path / "sketchy")
    made = DataConfig(name="sketchy", path=str(path), image_size=16, strict=False, store="always")
    assert_same(load_experiment(made), load_experiment(replace(made, store="never")))


def test_small_sets_stay_in_memory_and_large_ones_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(load_experiment(config(folder, store="auto")).train.target, np.ndarray)
    assert stores() == []
    # 24 pairs of 16 pixels, three bytes and one each.
    monkeypatch.setattr(through, "MOST_IN_MEMORY", 24 * 16 * 16 * 4 - 1)
    assert isinstance(load_experiment(config(folder, store="auto")).train.target, LazyRows)
    with pytest.raises(
        EdgecmdError, match=r"data\.store='sometimes' is unknown\. Allowed: auto, always, never"
    ):
        config(folder, store="sometimes")


def test_nothing_of_a_pair_is_computed_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One pair in two names, so that there is a group to keep.
    for half in ("source", "target"):
        shutil.copy(folder / half / "p003.png", folder / half / "p004.png")
    wanted = in_memory(folder)
    assert len(np.unique(wanted.all_copies().source)) == NUM - 1
    assert_same(load_experiment(config(folder)), wanted)
    for name in ("near_groups", "equal_groups"):
        monkeypatch.setattr(duplicates, name, lambda *_: pytest.fail("copies were looked for again"))
    for module, name in ((image, "_numbers"), (modality_row, "_of_numbers")):
        real = getattr(module, name)

        def of_one(part: np.ndarray, real=real) -> np.ndarray:
            assert len(part) <= 1 or len(part) > NUM, "a row was looked at again"
            return real(part)

        monkeypatch.setattr(module, name, of_one)
    assert_same(load_experiment(config(folder)), wanted)


def test_stores_are_listed_and_deleted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores_command(remove=False)
    assert "There are no stores in" in capsys.readouterr().out
    load_experiment(config(folder))
    (name,) = stores()
    (stores_folder() / f"{name}{store.PART}").mkdir()
    stores_command(remove=False)
    shown = capsys.readouterr().out
    assert name in shown
    assert "not finished" in shown
    assert len(stores()) == 2
    with writing(Key(what=store.read_json(stores_folder() / name / "store.json")["of"], state="")):
        assert not store.remove(name)
    stores_command(remove=True)
    assert f"Deleted: {name}." in capsys.readouterr().out
    assert stores() == []
    assert_same(load_experiment(config(folder)), in_memory(folder))


def test_rows_are_written_by_hand_and_read_by_numpy() -> None:
    key, form = Key(what="by hand", state="1"), Form(shape=(2,), dtype=np.dtype(np.int16))
    with writing(key), Build(key, forms={"a": form}, num=3) as build:
        for row in range(3):
            build.add({"a": np.array([row, -row], np.int16)}, {"row": row})
        made = build.finish({"notes": ["one"]})
    path = stores_folder() / key.name
    assert np.load(path / "a.npy").tolist() == [[0, 0], [1, -1], [2, -2]]
    assert np.asarray(made.arrays["a"]).tolist() == [[0, 0], [1, -1], [2, -2]]
    assert json.loads((path / "store.json").read_text()) == {"notes": ["one"], "arrays": ["a"], "rows": 3}


def test_a_file_that_is_gone_has_no_key(folder: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        key_of("x", [("one", [folder / "nowhere"])])
    assert read_pairs(folder, config(folder)).source.shape == (NUM, 16, 16, 3)
    with pytest.raises(DataError):
        load_experiment(config(folder / "nowhere"))
