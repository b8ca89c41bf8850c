"""What may leave: one table, every writer's flag held against it, and content that must not leave refused."""

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecmd.core import artefacts
from edgecmd.core.artefacts import (
    ARTEFACTS,
    BASES,
    PLACES,
    artefact_of,
    declare,
    may_leave_table,
    owner_only_table,
    refuse_counts,
    write_artefact,
)
from edgecmd.core.errors import PrivacyError

ROOT = Path(__file__).parents[2]
PACKAGES = ("edgecmd", "clients", "server", "export")
RAW = {"write_bytes_atomically", "write_text_atomically", "write_json", "write_bytes", "write_text"}
RAW |= {"savez", "savez_compressed", "save_file"}
# Modules that write files which are none of a run, a bundle or a page, or that have a writer of their own.
OTHERS = {
    "clients/node_program.py": "the program that stands in for Flower's, in a temporary folder",
    "clients/private.py": "a client's own state",
    "clients/state.py": "a client's own state",
    "edgecmd/core/artefacts.py": "the one writer",
    "edgecmd/audits/many_runs/runs.py": "trainings of an audit, kept for the next one",
    "edgecmd/experiments/faults/ledger_faults.py": "faults that an audit must find, in a copy of a run",
    "edgecmd/audits/risk/shadows.py": "trainings of an audit, kept for the next one",
    "edgecmd/run.py": "which pairs the ledgers of a folder count",
    "edgecmd/catalogue/data_files.py": "a data set",
    "edgecmd/core/jobs.py": "a folder of measurements",
    "edgecmd/experiments/compare/study.py": "a folder of measurements",
    "edgecmd/cli/export.py": "a chart of a name that the user gives",
    "export/bench/subject.py": "a temporary folder",
    "export/engines/engine_browser.py": "an answer to its parent process, in a temporary folder",
    "export/formats/format_worker.py": "an answer to its parent process, in a temporary folder",
    "export/engines/engine_worker.py": "an answer to its parent process, in a temporary folder",
    "edgecmd/experiments/gallery.py": "arrays into memory",
    "edgecmd/cli/setup.py": "settings to begin with",
    "edgecmd/experiments/bench/students.py": "a folder of measurements",
    "edgecmd/experiments/theory/study.py": "a folder of measurements",
    "edgecmd/experiments/robustness/attacked_runs.py": "a folder of measurements",
    "edgecmd/datasets/sample.py": "a folder of pairs to begin with",
    "edgecmd/data/show.py": "a sheet of a data set",
    "edgecmd/report/comparison.py": "a page of a name that the user gives",
    "edgecmd/data/stored/decoded_pairs.py": "a device's own state",
    "edgecmd/data/stored/kept_rows.py": "what is kept beside decoded pairs, in the cache",
    "edgecmd/data/stored/store.py": "decoded pairs, in the cache",
    "edgecmd/models/teacher/feature_cache.py": "the cache of teacher features",
    "edgecmd/core/files.py": "how files are written",
    "edgecmd/models/teacher/teachers.py": "a teacher",
    "edgecmd/core/run_lock.py": "who works in a run folder",
    "edgecmd/privacy/device_ledger.py": "a device's own state",
    "edgecmd/privacy/ledger.py": "the ledgers' folder",
    "edgecmd/privacy/ledger_file.py": "the ledgers' folder",
    "edgecmd/privacy/ledger_paths.py": "the ledgers' folder",
    "edgecmd/models/student_file.py": "a student by itself, such as a warm start",
    "export/trust/sandbox.py": "a job's temporary folder",
    "export/trust/worker.py": "a job's temporary folder",
    "export/documents/bundle_files.py": "arrays into memory",
    "export/bundle.py": "a model that is tried and thrown away",
    "export/device/intake.py": "what was piped in, in a temporary folder",
    "export/device/saved_embeddings.py": "what a device makes",
    "export/profiles/quantise.py": "a temporary folder",
    "export/profiles/slow_variants.py": "a temporary folder",
    "export/web/ortweb.py": "the cache of ONNX Runtime Web",
    "export/web/page.py": "a page of a name that the user gives",
    "server/checkpoint.py": "declared, and written beside its place first",
    "server/deploy/app_bundle.py": "the app that Flower sends, without data",
    "server/deploy/kits.py": "keys, certificates and scripts of a federation",
    "server/deploy/link.py": "what Flower's own program reads, and which keys are registered",
}


def test_rows_have_reasons_and_names_of_their_own() -> None:
    assert {one.basis for one in ARTEFACTS} == set(BASES)
    assert {one.place for one in ARTEFACTS} == set(PLACES)
    assert len({(one.place, one.pattern) for one in ARTEFACTS}) == len(ARTEFACTS)
    assert all(one.holds and one.why for one in ARTEFACTS)


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("student.safetensors", True),
        ("checkpoints/round-000003/student.safetensors", True),
        ("checkpoints/round-000003/state.json", False),
        ("privacy.json", True),
        ("partition.json", False),
        ("evaluation.json", False),
        ("retrieval.npz", False),
        ("report.html", False),
        ("figures/partition.png", False),
        ("audit.json", False),
        ("audit/inversion-1.png", False),
        ("events.jsonl", False),
        ("config.toml", False),
        ("ledger/client-0000.jsonl", False),
        ("clients/0123456789abcdef/client-0000/released.reply", False),
        ("baselines/l2/student.safetensors", False),
        ("export/student.onnx", True),
        ("export/MODEL_CARD.md", True),
        ("web/index.html", True),
    ],
)
def test_what_may_leave_is_decided_file_by_file(name: str, leaves: bool) -> None:
    assert artefact_of(name).may_leave is leaves
    assert declare(name, may_leave=leaves) is artefact_of(name)
    with pytest.raises(PrivacyError, match=f"may_leave={not leaves}, but the table says {leaves}"):
        declare(name, may_leave=not leaves)


def test_an_unknown_file_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        PrivacyError, match=r"Did you mean 'partition\.json'\? A new kind of file is a new row"
    ):
        write_artefact(tmp_path, "partitions.json", {}, may_leave=False)
    with pytest.raises(PrivacyError, match="exact numbers of private pairs"):
        write_artefact(tmp_path, "partition.json", {}, may_leave=True)
    assert list(tmp_path.iterdir()) == []


def test_content_is_written_as_what_it_is(tmp_path: Path) -> None:
    assert write_artefact(tmp_path, "token", "ab", may_leave=False).read_bytes() == b"ab"
    assert write_artefact(tmp_path, "student.safetensors", b"\0\1", may_leave=True).read_bytes() == b"\0\1"
    path = write_artefact(tmp_path, "figures/a.png", b"x", may_leave=False)
    assert path == tmp_path / "figures" / "a.png"
    table = write_artefact(tmp_path, "pipeline.json", {"baselines": True}, may_leave=True)
    assert json.loads(table.read_text()) == {"baselines": True}


@pytest.mark.parametrize(
    "content",
    [
        "| training pairs, unlabelled | 2017 |",
        "training pairs, unlabelled: 2,017; validation: 3",
        "It saw 2,017 unlabelled training pairs.",
        "**Skipped pairs:** 4",
        {"deep": [{"num_examples": 3}]},
        {"pairs": 10},
        {"loss": 0.5},
        {"classes": {"cat": 3}},
        {"skew": 0.1},
        {"seconds": 1.5},
        {"text": "private pairs: 12"},
    ],
)
def test_what_tells_of_pairs_is_refused_under_privacy_in_what_may_leave(
    content: object, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match="may leave, so under a privacy mechanism it must not reveal"):
        write_artefact(tmp_path, "privacy.json", content, may_leave=True, private=True)
    assert list(tmp_path.iterdir()) == []
    # Without privacy nothing is bounded, and the card tells it as ever; the owner's own files hold it always.
    write_artefact(tmp_path, "privacy.json", content, may_leave=True)
    write_artefact(tmp_path, "partition.json", content, may_leave=False, private=True)


@pytest.mark.parametrize(
    "content",
    [
        "| training pairs, unlabelled | not told: their number is private |",
        "pairs of 3 devices' own; neither their number nor what they show is known here",
        "Ranges come from 128 public pictures; no private pair",
        "epsilon 7.5 for each pair",
        {"loss": "cmc-anchored", "classes": ["cat", "dog"], "seconds": None, "skipped": False},
        b"training pairs: 12",
    ],
)
def test_what_tells_nothing_is_not_refused(content: object) -> None:
    refuse_counts("privacy.json", content)


def test_the_statement_lists_every_file_once_with_its_reason() -> None:
    leaving, own = may_leave_table(private=True), owner_only_table(private=True)
    assert sorted(one["file"] for one in leaving + own) == sorted(one.name for one in ARTEFACTS)
    assert {one["file"] for one in leaving} == {one.name for one in ARTEFACTS if one.may_leave}
    assert all(set(one) == {"file", "holds", "why"} and all(one.values()) for one in leaving + own)
    weights = next(one for one in leaving if one["file"] == "student.safetensors")
    assert weights["why"].startswith("released under the guarantee; ")


def test_without_a_guarantee_weights_do_not_leave_as_released() -> None:
    """Predictable or too little noise, or none at all: only what depends on no pair is listed."""
    leaving = {one["file"] for one in may_leave_table(private=False)}
    assert leaving < {one["file"] for one in may_leave_table(private=True)}
    assert "export/infer.py" in leaving
    assert not leaving & {"student.safetensors", "export/student.onnx", "export/MODEL_CARD.md"}
    own = {one["file"]: one["why"] for one in owner_only_table(private=False)}
    assert own["student.safetensors"].startswith("nothing bounds what it tells of the pairs")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if "datasets/build/" not in name:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_no_module_writes_past_the_table() -> None:
    """A module that writes files goes through `write_artefact`, or stands in `OTHERS` with what it writes."""
    found = {name for name, tree in modules() if any(called(call) in RAW for call in calls(tree))}
    assert found - set(OTHERS) == set()


def flags(tree: ast.Module) -> Iterator[tuple[str, ast.expr | None, dict[str, ast.expr]]]:
    """What calls the writer, the name it gives the file, and its keywords."""
    for call in calls(tree):
        keywords = {one.arg: one.value for one in call.keywords if one.arg}
        name = called(call)
        if name == "write_artefact":
            yield name, call.args[1], keywords
        elif name == "declare":
            yield name, call.args[0], keywords
        elif name == "partial" and getattr(call.args[0], "id", "") == "write_artefact":
            yield name, None, keywords


def literal(module: str, node: ast.expr | None) -> str | None:
    """A file's name as far as the source tells it; what is filled in later becomes a one."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        name = "".join(str(one.value) if isinstance(one, ast.Constant) else "1" for one in node.values)
        return None if name == "checkpoints/1/1.safetensors" else name
    if isinstance(node, ast.Name):
        value = getattr(importlib.import_module(module.removesuffix(".py").replace("/", ".")), node.id, None)
        return value if isinstance(value, str) else None
    return None


def test_every_writer_states_the_flag_of_the_table() -> None:
    num_checked, unresolved = 0, []
    for module, tree in modules():
        if module == "edgecmd/core/artefacts.py":
            continue
        for writer, node, keywords in flags(tree):
            assert isinstance(keywords.get("may_leave"), ast.Constant), f"{module}: no literal flag"
            place = str(ast.literal_eval(keywords["place"])) if "place" in keywords else "run"
            stated, name = bool(ast.literal_eval(keywords["may_leave"])), literal(module, node)
            if name is None:
                unresolved.append((module, writer))
                assert any(one.place == place and one.may_leave is stated for one in ARTEFACTS), module
                continue
            assert artefact_of(name, place=place).may_leave is stated, f"{module}: {name}"
            num_checked += 1
    assert num_checked >= 15
    # These get names at run time, where `declare` refuses a contradiction; the tests of each run them.
    assert sorted(unresolved) == [
        ("edgecmd/audits/audit_file.py", "write_artefact"),
        ("edgecmd/audits/risk/attacks.py", "write_artefact"),
        ("export/bundle.py", "write_artefact"),
        ("export/documents/bundle_files.py", "partial"),
        ("export/formats/conversion.py", "write_artefact"),
        ("export/web/page.py", "write_artefact"),
        ("server/checkpoint.py", "declare"),
    ]


def test_the_writer_asks_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(artefacts, "declare", lambda name, **said: asked.append((name, said)))
    write_artefact(tmp_path, "anything", "x", may_leave=True, place="bundle")
    assert asked == [("anything", {"may_leave": True, "place": "bundle"})]


def test_the_documents_name_every_file() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    assert [one.name for one in ARTEFACTS if f"`{one.name}`" not in text] == []
