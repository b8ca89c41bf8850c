"""A user's own code named as module:factory: what is found, what it is offered, and every kind of refusal."""

import sys
from pathlib import Path

import pytest

from edgecmd.core.errors import ConfigError
from edgecmd.core.own_code import call_factory, is_own, load_factory, module_of

OWN = """
NUMBER = 3
def loss(s, t, a):
    return s
def scaled(temperature, unused=1):
    return ("scaled", temperature, unused)
def needy(elsewhere):
    return elsewhere
def broken():
    raise ValueError("first line\\n  second line.")
def leaves():
    raise SystemExit(0)
class Plain:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_by_name.py").write_text(OWN)
    (tmp_path / "broken_by_name.py").write_text("def loss(:\n")
    (tmp_path / "leaves_by_name.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "lacks_by_name.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss", "does not name code of your own. Write module:factory or file.py:factory"),
        (":loss", "does not name code"),
        ("own:", "does not name code"),
        ("..own_by_name:loss", "does not name code"),
        ("own_by_name:loss()", "does not name code"),
        ("nowhere_at_all:loss", "cannot be imported: ModuleNotFoundError: .*must be able to import 'nowhere"),
        ("lacks_by_name:loss", "No module named 'a_library_that_is_not_there'"),
        ("leaves_by_name:loss", "cannot be imported: SystemExit: 0"),
        ("absent.py:loss", "there is no file absent.py"),
        ("broken_by_name.py:loss", "SyntaxError"),
        ("own_by_name:lsos", "has no 'lsos'.*Did you mean 'loss'"),
        ("own_by_name:NUMBER", "is of type int, which cannot be called"),
    ],
)
def test_code_that_is_not_there_is_named(text: str, message: str, own: Path) -> None:
    assert own.is_dir()
    with pytest.raises(ConfigError, match=message):
        load_factory("--loss", text, files=True)


def test_a_file_is_found_where_it_need_not_travel(own: Path) -> None:
    assert load_factory("--loss", "own_by_name.py:loss", files=True)(1, 2, 3) == 1
    assert load_factory("--loss", str(own / "own_by_name.py:loss"), files=True)(4, 2, 3) == 4
    with pytest.raises(ConfigError, match="Write module:factory, such as"):
        load_factory("distill.loss", "own_by_name.py:loss")


def test_the_working_folder_comes_last(own: Path) -> None:
    (own / "json.py").write_text("def dumps(value): return 'a stranger'\n")
    load_factory("--loss", "own_by_name:loss")
    assert sys.path.index(str(own)) == len(sys.path) - 1


def test_a_factory_gets_the_numbers_that_it_names(own: Path) -> None:
    assert own.is_dir()
    offered = {"temperature": 0.5, "cmd_weight": 2.0}
    assert call_factory("distill.loss", "own_by_name:scaled", offered=offered) == ("scaled", 0.5, 1)
    assert type(call_factory("distill.loss", "own_by_name:Plain", offered=offered)).__name__ == "Plain"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needy", "asks for 'elsewhere', which edgecmd cannot give. It offers, as keywords: temperature"),
        ("broken", "was called and raised ValueError: first line second line.$"),
        ("leaves", "was called and raised SystemExit: 0.$"),
    ],
)
def test_a_factory_that_fails_is_told_in_a_sentence(name: str, message: str, own: Path) -> None:
    assert own.is_dir()
    with pytest.raises(ConfigError, match=message):
        call_factory("distill.loss", f"own_by_name:{name}", offered={"temperature": 0.1})


def test_what_a_setting_names() -> None:
    assert is_own("mine.losses:Mine")
    assert not is_own("cmc+cmd")
    assert module_of("mine.losses:Mine") == "mine.losses"
