"""Ready features land in the row of their own id, whatever file and order they come in, or are refused.

Row i of every table here holds i in its first number, so that a wrong row is seen.
"""

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecmd.config.assemble import Assembly
from edgecmd.config.ready import check_ready_features
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.ready_features import (
    Wanted,
    listed_orders,
    match,
    read_file,
    read_ready,
    row_problems,
    usual_orders,
)
from edgecmd.experiments.run_baselines import sees_pictures, teacher_on_target
from edgecmd.experiments.run_checks import refuse
from edgecmd.settings import TeacherConfig
from tests.tiny_federation import TESTED, task_of

NAMES = ("a", "a-1", "b", "c10", "c2")


def table(num: int, dim: int = 4) -> np.ndarray:
    """Row i begins with i + 1."""
    features = np.random.default_rng(0).normal(size=(num, dim)).astype(np.float32)
    features[:, 0] = np.arange(num) + 1
    return features


def wanted(
    path: Path, names: Sequence[str] | None = NAMES, setting: str = "pairs", **listed: list[str]
) -> Wanted:
    return Wanted(setting=setting, path=path, names=names, listed=listed)


def read_pair(path: Path, names: Sequence[str] = NAMES, **listed: list[str]) -> tuple[np.ndarray | None, str]:
    """The pairs' features beside public ones that fit, and everything that was said."""
    public = path.parent / "public-of-the-test.npz"
    np.savez(public, ids=np.array(["p", "q"]), features=table(2))
    problems: list[str] = []
    found = read_ready(
        wanted(path, names, **listed), wanted(public, ("p", "q"), setting="public"), problems=problems
    )
    return None if found is None else found[0].features, " ".join(problems)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda name: name,
        lambda name: f"{name}.png",
        lambda name: f"source/{name}.JPG",
        lambda name: f"C:\\pictures\\{name}.webp",
        lambda name: f"./{name}.wav",
    ],
)
def test_rows_are_found_by_id_in_any_order_and_spelling(
    spelling: Callable[[str], str], tmp_path: Path
) -> None:
    order = [3, 1, 4, 0, 2]
    ids = np.array([spelling(NAMES[row]) for row in order])
    np.savez(tmp_path / "f.npz", ids=ids, features=table(5)[order])
    found, problems = read_pair(tmp_path / "f.npz")
    assert problems == ""
    assert found is not None
    assert found[:, 0].tolist() == [1, 2, 3, 4, 5]


@given(order=st.permutations(range(5)), extra=st.integers(0, 3))
def test_match_is_a_look_up_whatever_the_order_and_the_further_rows(order: list[int], extra: int) -> None:
    ids = [NAMES[row] for row in order] + [f"other-{row}" for row in range(extra)]
    rows, sentences = match(ids, NAMES)
    assert sentences == []
    assert rows == {name: ids.index(name) for name in NAMES}


@pytest.mark.parametrize(
    ("given_ids", "names", "expected"),
    [
        (("x/1", "y/1"), ("1", "2"), "several rows of one id: 1 (x/1 = y/1)"),
        (("1", "1.png"), ("1",), "several rows of one id"),
        (("1.png", "2"), ("u/1", "v/1", "2"), "could mean several: 1 (1.png)"),
        (("u/1.png", "2"), ("u/1", "1", "2"), "could mean several: 1 (u/1.png)"),
        (("a.b",), ("a",), "no row for 1 (a) of 1"),
        (("A",), ("a",), "no row for 1 (a) of 1"),
        (("w/1",), ("u/1",), "no row for 1 (u/1) of 1"),
    ],
)
def test_uncertain_and_missing_ids_are_named(
    given_ids: tuple[str, ...], names: tuple[str, ...], expected: str
) -> None:
    _, sentences = match(given_ids, names)
    assert expected in " ".join(sentences)


def test_a_bare_name_finds_the_one_id_with_folders() -> None:
    assert match(("1f600.png", "2"), ("fluent/1f600", "fluent/2")) == ({"fluent/1f600": 0, "fluent/2": 1}, [])


def test_ids_beside_an_npy_are_used(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", table(5)[::-1])
    (tmp_path / "f.ids.txt").write_bytes("\ufeff".encode() + "\r\n".join([*NAMES[::-1], ""]).encode())
    found, problems = read_pair(tmp_path / "f.npy")
    assert problems == ""
    assert found is not None
    assert found[:, 0].tolist() == [1, 2, 3, 4, 5]
    (tmp_path / "f.ids.txt").write_text("a\nb\n")
    assert "5 rows of features and 2 ids" in read_pair(tmp_path / "f.npy")[1]
    (tmp_path / "f.ids.txt").write_bytes("a\nb".encode("utf-16"))
    assert "Save it as UTF-8 text" in read_pair(tmp_path / "f.npy")[1]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a-1"),  # a-1.png comes before a.png
        ("x1", "x10", "x2"),  # by numbers: 1, 2, 10
        ("B", "a"),  # whatever the case: a, B
        ("a", "a b"),  # a blank is before the dot of the ending
        ("c-d/1", "c/1"),  # by folders: c before c-d
        ("a_c", "ab"),  # ls looks at letters first
    ],
)
def test_a_bare_npy_is_refused_where_people_list_files_differently(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "f.npy", table(len(names)))
    found, problems = read_pair(tmp_path / "f.npy", sorted(names))
    assert found is None
    assert "the order of its rows is not certain" in problems
    assert "numpy.savez('f.npz', ids=ids, features=features), or write f.ids.txt beside it" in problems


def test_a_bare_npy_is_taken_where_every_order_is_one(tmp_path: Path) -> None:
    names = tuple(f"img-{row:03d}" for row in range(12))
    np.save(tmp_path / "f.npy", table(12))
    found, problems = read_pair(tmp_path / "f.npy", names)
    assert (problems, None if found is None else found[:, 0].tolist()) == ("", [*range(1, 13)])
    _, problems = read_pair(tmp_path / "f.npy", names, **{"pairs.csv": list(names[::-1])})
    assert "row 0 is 'img-000', or 'img-011' where names are in the order of pairs.csv" in problems
    assert "has 12 rows, and the data has 11" in read_pair(tmp_path / "f.npy", names[1:])[1]


@given(st.lists(st.text("ab-._ 019/B", min_size=1, max_size=4), min_size=2, max_size=6, unique=True))
def test_where_file_names_sort_otherwise_an_order_says_so(names: list[str]) -> None:
    """The oracle is what ``sorted(glob("*.png"))`` gives."""
    ids = sorted(names)
    globbed = [one.removesuffix(".png") for one in sorted(f"{name}.png" for name in names)]
    orders = usual_orders(ids, {}).values()
    assert globbed in orders
    assert all(sorted(order) == ids for order in orders)


def test_orders_that_stand_beside_the_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("id,owner\nb,x\na,y\n")
    assert listed_orders(tmp_path) == {"pairs.csv": ["b", "a"]}
    np.savez(tmp_path / "p.npz", id=np.array(["z", "a"]))
    assert listed_orders(tmp_path / "p.npz") == {"p.npz": ["z", "a"]}
    np.savez(tmp_path / "q.npz", id=np.array(["z", "a"], dtype=object))
    assert listed_orders(tmp_path / "q.npz") == {}


def rows_with(value: float) -> np.ndarray:
    features = table(5).astype(np.float64)
    features[1] = value
    return features


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (rows_with(np.nan), "numbers that are not finite: 1 (a-1)"),
        (rows_with(-np.inf), "numbers that are not finite: 1 (a-1)"),
        (rows_with(1e300), "numbers that are not finite: 1 (a-1)"),
        (rows_with(0.0), "nothing but zeros: 1 (a-1)"),
        (rows_with(1e-300), "nothing but zeros: 1 (a-1)"),
        (rows_with(0.25), "one number repeated: 1 (a-1)"),
        (table(5) * 1e25, "a length outside 1e-15 to 1e+18: 5 (a, a-1, b, c10, c2)"),
        (np.tile(table(1), (5, 1)), "5 rows that all point the same way"),
        (table(5).astype(np.int64), "dtype=int64; allowed are float16, float32, float64"),
        (table(5).astype(np.complex64), "dtype=complex64"),
        (table(5)[:, 0], "shape=(5,)"),
        (table(5)[..., None, None], "shape=(5, 4, 1, 1)"),
        (table(5)[:, :1], "shape=(5, 1)"),
        (table(5)[:, :3], "3 numbers per row, public="),
    ],
)
def test_rows_that_no_teacher_gives_are_refused(features: np.ndarray, expected: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", ids=np.array(NAMES), features=features)
    found, problems = read_pair(tmp_path / "f.npz")
    assert found is None
    assert expected in problems
    assert "f.npz" in problems


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floating_point_of_any_size_becomes_float32(dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", ids=np.array(NAMES), features=np.asfortranarray(table(5).astype(dtype)))
    found, problems = read_pair(tmp_path / "f.npz")
    assert problems == ""
    assert found is not None
    assert found.dtype == np.float32
    assert np.allclose(found, table(5), rtol=1e-3)


def test_wrong_rows_that_are_left_out_are_no_problem(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "f.npz", ids=np.array([*NAMES, "other"]), features=np.vstack([table(5), np.zeros((1, 4))])
    )
    assert read_pair(tmp_path / "f.npz")[1] == ""
    assert row_problems(np.zeros((1, 4), np.float32), ["x"]) != []


def header(shape: tuple[int, ...], *, descr: str = "<f4") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.npy", b""),
        ("f.npy", b"nonsense"),
        ("f.npy", header((10**12, 512))),
        ("f.npy", header((5, 4)) + b"\0" * 79),
        ("f.npy", header((5, 4)) + b"\0" * 160),
        ("f.npy", header((5, -4))),
        ("f.npy", b"\x93NUMPY\x03\x00" + b"\0" * 40),
        ("f.npy", b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((("),
        ("f.npz", b""),
        ("f.npz", b"PK\x03\x04 cut off"),
        ("f.npz", zipped(features=header((5, 4)) + b"\0" * 80)),
        ("f.npz", zipped(ids=header((10**12,), descr="<U4"), features=header((5, 4)) + b"\0" * 80)),
        ("f.npz", zipped(ids=header((), descr="<U4") + b"\0" * 16, features=header((5, 4)) + b"\0" * 80)),
        ("f.npz", zipped(ids=b"x", features=b"y")),
        ("f.h5", b"\x89HDF"),
        ("f.pt", b"PK"),
        ("f", b"x"),
    ],
)
def test_a_broken_or_huge_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_file(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.npy", "missing.npz", "folder.npz", "two\nlines.csv"])
def test_what_is_no_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError):
        read_file(tmp_path / name)


def test_python_objects_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.array(NAMES), features=np.array([object()] * 5))
    np.savez(tmp_path / "b.npz", ids=np.array(NAMES, dtype=object), features=table(5))
    np.save(tmp_path / "c.npy", np.array([[object()]] * 5))
    for name in ("a.npz", "b.npz", "c.npy"):
        with pytest.raises(DataError, match=r"objects|dtype=object"):
            read_file(tmp_path / name)


def test_random_damage_is_always_a_sentence(tmp_path: Path) -> None:
    """Flips and cuts: whatever numpy and zipfile raise, the file is named; or the form is still right."""
    np.savez(tmp_path / "whole.npz", ids=np.array(NAMES), features=table(5))
    np.save(tmp_path / "whole.npy", table(5))
    generator = np.random.default_rng(0)
    for suffix in (".npz", ".npy"):
        whole, path = (tmp_path / f"whole{suffix}").read_bytes(), tmp_path / f"damaged{suffix}"
        for _ in range(300):
            data = bytearray(whole[: generator.integers(1, len(whole) + 1)])
            for place in generator.integers(0, len(data), generator.integers(0, 6)):
                data[place] = generator.integers(0, 256)
            path.write_bytes(data)
            with contextlib.suppress(DataError):
                read_file(path)


def ready_run(config: RunConfig, folder: Path, *, dim: int = 24) -> RunConfig:
    """A run whose features came from a teacher of another width than any that ships."""
    whole = TESTED.experiment(config.data)
    ids = [*whole.test.ids, *whole.train_ids, *whole.validation.ids]
    np.savez(folder / "pairs.npz", ids=np.array(ids), features=table(len(ids), dim))
    keys = list(whole.public.keys)
    np.savez(folder / "public.npz", ids=np.array(keys[::-1]), features=table(len(keys), dim)[::-1])
    ready = TeacherConfig(pair_features=str(folder / "pairs.npz"), public_features=str(folder / "public.npz"))
    return replace(config, teacher=ready)


def test_a_run_finds_each_pair_and_each_public_image(tiny: RunConfig, tmp_path: Path) -> None:
    config = ready_run(tiny, tmp_path)
    whole = TESTED.experiment(config.data)
    num = len(whole.test.ids)
    found = task_of(config).pair_features(whole.train, whole.train_ids)
    assert found.shape == (len(whole.train), 24)
    assert found[:, 0].tolist() == [row + num + 1 for row in range(len(whole.train))]
    assert task_of(config).public_features[:, 0].tolist() == [row + 1 for row in range(len(whole.public))]


def test_nothing_else_stands_in_for_the_teacher_of_ready_features(tiny: RunConfig, tmp_path: Path) -> None:
    config = ready_run(tiny, tmp_path, dim=128)
    assert not sees_pictures(config, task_of(config))
    with pytest.raises(ConfigError, match="the teacher that made them is not here"):
        TESTED.teacher(config)
    with pytest.raises(ConfigError, match="the teacher that made them is not here"):
        teacher_on_target(config, task_of(config))


def test_the_check_says_what_the_run_says(tiny: RunConfig, tmp_path: Path) -> None:
    config = ready_run(tiny, tmp_path)
    whole = TESTED.experiment(config.data)
    ids = [*whole.train_ids, *whole.validation.ids, *whole.test.ids]
    assert check_ready_features(tiny, ids) == []
    assert check_ready_features(config, ids, keys=whole.public.keys) == []
    refuse(config, Assembly())
    np.savez(tmp_path / "pairs.npz", ids=np.array(ids[1:]), features=table(len(ids) - 1, 24))
    np.savez(tmp_path / "public.npz", ids=np.array(whole.public.keys), features=table(len(whole.public), 12))
    told = check_ready_features(replace(config, seed=1), ids, keys=whole.public.keys)
    assert len(told) == 1
    assert f"no row for 1 ({ids[0]}) of {len(ids)}" in told[0]
    np.savez(tmp_path / "pairs.npz", ids=np.array(ids), features=table(len(ids), 24))
    told = check_ready_features(config, ids, keys=whole.public.keys)
    assert len(told) == 1
    assert "pairs.npz' has 24 numbers per row" in told[0]
    assert "public.npz' 12" in told[0]
    with pytest.raises(DataError, match="has 24 numbers per row"):
        refuse(config, Assembly())
    dense = replace(config, student=replace(config.student, architecture="seg-50k"))
    assert "of the ws-" in check_ready_features(dense, ids)[-1]


@pytest.mark.parametrize("lengths", [np.ones(5), np.arange(1.0, 6.0)])
def test_rows_of_one_direction_are_refused(lengths: np.ndarray) -> None:
    """The teacher's cosine is all that is used: a cone of 1e-4 is one direction, of 0.1 several."""
    noise = np.random.default_rng(0).normal(size=(5, 4))
    for width, refused in ((1e-4, True), (0.1, False)):
        rows = (lengths[:, None] * (1.0 + width * noise)).astype(np.float32)
        assert any("point the same way" in one for one in row_problems(rows, NAMES)) is refused


def test_ids_of_another_half_are_refused() -> None:
    halves = ("target", "public")
    good = match(["source/a.png", "b", "x/c.png"], ["a", "b", "c"], other_halves=halves)
    assert good == ({"a": 0, "b": 1, "c": 2}, [])
    for ids in (["target/a.png", "b"], ["Target\\a.png", "source/b.png"], ["./data/public/a", "b"]):
        assert (
            "ids in a folder of other images (public, target): 1"
            in match(ids, "ab", other_halves=halves)[1][0]
        )
    # A class may be called so.
    assert match(["target/a"], ["target/a"], other_halves=halves) == ({"target/a": 0}, [])
    assert match(["source/target/a.png"], ["target/a"], other_halves=halves) == ({"target/a": 0}, [])
