"""The samples for phones: Kotlin compiled and run with a stand-in for its engine, Swift parsed.

Neither is run with ONNX Runtime's own library for its language, which no registry of this project has.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_programs import SAMPLES, made_up_bundle, processes, write_pnm

STANDIN = Path(__file__).parent / "standin"
KOTLIN = (SAMPLES / "Embed.kt", SAMPLES / "short" / "Brief.kt")


@pytest.fixture(scope="module")
def kotlin(tmp_path_factory):
    """The Kotlin samples by class, compiled by the compiler in the Python package kotlin-jupyter-kernel."""
    found = importlib.util.find_spec("run_kotlin_kernel")
    if found is None or found.origin is None:
        pytest.skip("the Kotlin compiler is not installed: pip install kotlin-jupyter-kernel")
    java, javac = shutil.which("java"), shutil.which("javac")
    if java is None or javac is None:
        pytest.skip("there is no JDK")
    jars, out = Path(found.origin).parent / "jars", tmp_path_factory.mktemp("kotlin")
    (library,) = jars.glob("kotlin-stdlib-*.jar")
    compiler = [
        java,
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{jars}/*",
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
    ]
    path = os.pathsep.join([str(out), str(library)])
    for command in (
        [javac, "-d", out, *sorted(STANDIN.glob("ai/onnxruntime/*.java"))],
        [*compiler, "-no-stdlib", "-no-reflect", "-Werror", "-cp", path, "-d", out, *KOTLIN],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    engine = [f"-Dpython={sys.executable}", f"-Dengine={STANDIN / 'engine.py'}", "-Dstdout.encoding=UTF-8"]
    return lambda name: processes([java, *engine, "-cp", path, name], dict(os.environ))


@pytest.mark.slow
def test_the_kotlin_sample_agrees_with_golden_files_and_refuses_broken_ones(kotlin, tmp_path):
    embed = kotlin("EmbedKt")
    sizes = {"squeeze": [(6, 6), (12, 18), (17, 5)], "crop": [(9, 21)], "pad": [(9, 21), (1, 50)]}
    bundles = [
        made_up_bundle(tmp_path / fit, channels=1 if fit == "pad" else 3, fit=fit, sizes=few)
        for fit, few in sizes.items()
    ]
    for said, few in zip(embed([[one] for one in bundles]), sizes.values(), strict=True):
        assert (said.code, said.err) == (0, "")
        gaps = re.findall(r"^\S+: preprocessing differs by (\S+), student by (\S+)$", said.out, re.MULTILINE)
        assert len(gaps) == len(few)
        assert all(float(gap) <= 1e-5 for pair in gaps for gap in pair)
    coins = np.random.default_rng(5)
    one, two = (
        write_pnm(tmp_path / f"{name}.ppm", coins.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        for name in ("one", "two")
    )
    answered, *refused = embed(
        [
            [bundles[0], one, f"a={one}", f"b={two}"],
            [tmp_path],
            [bundles[0], tmp_path / "none.ppm"],
            [bundles[0], write_pnm(tmp_path / "grey.pgm", np.zeros((6, 6, 1), np.uint8))],
        ]
    )
    assert answered.out.splitlines()[-1].startswith(f"{one}: a 1.0000, b 0.")
    file = bundles[0] / "core.6x6.scaled.raw"
    file.write_bytes(file.read_bytes()[:100])
    bad = shutil.copytree(bundles[1], tmp_path / "bad")
    (bad / "student.core.onnx").write_bytes(b"no model")
    other = shutil.copytree(bundles[1], tmp_path / "other")
    text = (other / "core.json").read_text()
    (other / "core.json").write_text(text.replace('"format": "1"', '"format": "2"'))
    refused += embed([[bundles[0]], [bad], [other]])
    for said in refused:
        assert said.code == 2, said
        assert re.fullmatch(r"error: [^\n]+\n", said.err), said
    assert "core.6x6.scaled.raw has 100 bytes; its header needs 864." in refused[-3].err
    assert "core.json has format 2; this sample reads 1" in refused[-1].err


@pytest.mark.slow
def test_the_short_kotlin_sample_agrees_and_refuses(kotlin, tmp_path):
    """A NaN among the golden values is a difference; half an input and no file get a sentence."""
    good = made_up_bundle(tmp_path / "good", channels=3, fit="squeeze", sizes=[(6, 6)])
    nan, half, none = (shutil.copytree(good, tmp_path / name) for name in ("nan", "half", "none"))
    golden, scaled = "core.6x6.embedding.raw", "core.6x6.scaled.raw"
    (nan / golden).write_bytes(b"\0\0\xc0\x7f" + (good / golden).read_bytes()[4:])
    (half / scaled).write_bytes((good / scaled).read_bytes()[:600])
    (none / golden).unlink()
    agrees, differs, *refused = kotlin("BriefKt")([[good], [nan], [half], [none], []])
    assert (agrees.code, agrees.err) == (0, "")
    gap, numbers = re.match(r"differs by (\S+), allowed 1.0E-4\nfirst values (.+)\n", agrees.out).groups()
    assert float(gap) <= 1e-5
    first = np.fromfile(good / golden, "<f4")[:4]
    assert [float(one) for one in numbers.split()] == pytest.approx(first, abs=1e-5)
    assert (differs.code, differs.out.partition(",")[0]) == (6, "differs by NaN")
    for said in refused:
        assert said.code == 2, said
        assert re.fullmatch(r"error: [^\n]+\n", said.err), said


@pytest.mark.parametrize(
    ("name", "part"), [("Embed.swift", b"func see("), ("short/Brief.swift", b"func run(")]
)
def test_the_swift_samples_have_no_error_of_grammar(name, part):
    """Types and names are not checked: that needs a compiler."""
    tree_sitter = pytest.importorskip("tree_sitter", reason="pip install tree-sitter tree-sitter-swift")
    grammar = pytest.importorskip("tree_sitter_swift", reason="pip install tree-sitter tree-sitter-swift")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    text = (SAMPLES / name).read_bytes()
    assert not parser.parse(text).root_node.has_error
    assert part in text
    assert parser.parse(text.replace(part, part + b"(", 1)).root_node.has_error
