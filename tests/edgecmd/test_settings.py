"""One reader for TOML, ``--set`` and Flower's run config."""

import math
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecmd.config.reader import flatten, load_config, template, to_toml, unflatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.settings import DataConfig, DistillConfig, EvaluateConfig, FederationConfig, StudentConfig

text = st.text(max_size=20)
# Plain values: the dataclasses are made in the test, where the type checker may draw random numbers.
values = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-zé☃_][a-z0-9 .☃-]{0,16}[a-z_]", fullmatch=True).filter(
            lambda one: one.split(".")[0] not in ("con", "prn", "aux", "nul")
        ),
        "out": text.filter(lambda one: "\0" not in one),
        "seed": st.integers(0, 2**31 - 1),
        "data": st.fixed_dictionaries(
            {
                "path": text,
                "target_offset": st.floats(allow_nan=False, allow_infinity=False),
                "val_fraction": st.floats(0.01, 0.4),
                "strict": st.booleans(),
            }
        ),
        "student": st.fixed_dictionaries({"architecture": text}),
        "distill": st.fixed_dictionaries(
            {"learning_rate": st.floats(0, 100), "keep_optimizer": st.booleans()}
        ),
        "federation": st.fixed_dictionaries(
            {"alpha": st.floats(1e-3, 1e6), "max_examples": st.integers(1, 2**53)}
        ),
        "evaluate": st.fixed_dictionaries(
            {"num_labels": st.lists(st.integers(0, 10**6), max_size=5).map(tuple)}
        ),
    }
)
OTHER_TYPES = """
import numpy as np
from edgecmd.core.errors import ConfigError
from edgecmd.settings import DistillConfig, EvaluateConfig
tried = [{"batch_size": "64"}, {"batch_size": 2.5}, {"augment": True}, {"learning_rate": None}]
for section, values in [*((DistillConfig, one) for one in tried), (EvaluateConfig, {"num_labels": (1, "5")})]:
    try:
        section(**values)
    except ConfigError as error:
        print(error)
print(DistillConfig(batch_size=np.int64(32), learning_rate=np.float32(0.5)).batch_size)
"""
SECTIONS = {
    "data": DataConfig,
    "student": StudentConfig,
    "distill": DistillConfig,
    "federation": FederationConfig,
    "evaluate": EvaluateConfig,
}


def built(given_values) -> RunConfig:
    return RunConfig(
        **{
            name: SECTIONS[name](**value) if name in SECTIONS else value
            for name, value in given_values.items()
        }
    )


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loaded(tmp_path: Path, toml: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_bytes(toml.encode())
    return load_config(path, overrides)


def message(tmp_path: Path, toml: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, toml, *overrides)
    return str(caught.value)


class TestRoundTrips:
    @quick
    @given(values=values)
    def test_toml(self, tmp_path, values):
        config = built(values).resolved()
        assert loaded(tmp_path, to_toml(config)) == config

    @quick
    @given(values=values)
    def test_flat(self, values):
        config = built(values).resolved()
        flat = flatten(config)
        assert unflatten(flat) == config
        assert {type(value) for value in flat.values()} <= {int, float, bool, str}

    @quick
    @given(value=text)
    def test_text_override(self, value):
        escaped = "".join(f"\\U{ord(one):08x}" for one in value)
        assert load_config(None, [f'data.path="{escaped}"']).data.path == value

    def test_template_is_the_defaults(self, tmp_path):
        assert loaded(tmp_path, template()) == RunConfig().resolved()
        assert loaded(tmp_path, "") == RunConfig().resolved()
        assert load_config() == RunConfig().resolved()

    def test_toml_has_every_setting_once(self):
        tables = tomllib.loads(to_toml(RunConfig()))
        assert list(tables) == [field.name for field in fields(RunConfig)]
        assert list(tables["distill"]) == [field.name for field in fields(DistillConfig)]
        assert "num_labels = [1, 5, 10, 30, 0]" in to_toml(RunConfig())

    def test_flat_keys_are_dotted_and_tuples_are_text(self):
        flat = flatten(RunConfig())
        assert flat["seed"] == 0
        assert flat["distill.temperature"] == 0.1
        assert flat["evaluate.num_labels"] == "1,5,10,30,0"


class TestTemplate:
    def test_every_setting_has_its_meaning_above_it(self):
        lines = template().splitlines()
        for number, line in enumerate(lines):
            if " = " in line and not line.startswith("#"):
                assert lines[number - 1].startswith("# "), line
        assert "# Temperature of the student's similarities.\ntemperature = 0.1" in template()
        assert '# Name of the run folder.\nname = "demo"' in template()

    def test_sections_have_their_meaning(self):
        assert "# Clients, rounds and the server's update.\n[federation]" in template()

    def test_lines_are_short(self):
        assert max(len(line) for line in template().splitlines()) <= 102


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "key", "value"),
        [
            ("distill.loss=cmc+cmd", "distill.loss", "cmc+cmd"),
            ('distill.loss="cmd"', "distill.loss", "cmd"),
            ("evaluate.num_labels=[1,5]", "evaluate.num_labels", "1,5"),
            ("evaluate.num_labels=1,5", "evaluate.num_labels", "1,5"),
            ("evaluate.num_labels=1, 5", "evaluate.num_labels", "1,5"),
            ("evaluate.num_labels=7", "evaluate.num_labels", "7"),
            ("evaluate.num_labels=", "evaluate.num_labels", ""),
            ("distill.temperature=1", "distill.temperature", 1.0),
            ("distill.learning_rate=1e-4", "distill.learning_rate", 1e-4),
            (" seed = 3 ", "seed", 3),
            ("data.strict=false", "data.strict", False),
            ("name=2026", "name", "2026"),
            ("name=2026-11-22", "name", "2026-11-22"),
            ("name=true", "name", "true"),
            ("data.path=/a=b/c d", "data.path", "/a=b/c d"),
            ("data.path=a\nseed = 5", "data.path", "a\nseed = 5"),
            ("data.path=1\nseed = 5", "data.path", "1\nseed = 5"),
            ("data.path=", "data.path", ""),
        ],
    )
    def test_value(self, override, key, value):
        flat = flatten(load_config(None, [override]))
        assert flat[key] == value
        assert type(flat[key]) is type(value)
        assert {one: flat[one] for one in flat if one != key} == {
            one: old for one, old in flatten(RunConfig().resolved()).items() if one != key
        }

    def test_last_override_wins_over_the_file(self, tmp_path):
        assert loaded(tmp_path, "seed = 1", "seed=2", "seed=3").seed == 3

    def test_file_may_be_wrong_where_an_override_puts_it_right(self, tmp_path):
        assert loaded(tmp_path, "[data]\nimage_size = 20", "data.image_size=32").data.image_size == 32

    def test_without_equals_sign(self):
        with pytest.raises(ConfigError, match="--set 'seed' has no value"):
            load_config(None, ["seed"])

    def test_more_digits_than_python_reads(self):
        with pytest.raises(ConfigError, match=r"seed=.* is text; expected a whole number"):
            load_config(None, ["seed=" + "9" * 5000])


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("toml", "location", "hint"),
        [
            ("sed = 1", "sed is unknown", "Did you mean 'seed'?"),
            ("[distil]\nloss = 'cmc'", "distil is unknown", "Did you mean 'distill'?"),
            ("[distill]\nlos = 'cmc'", "distill.los is unknown", "Did you mean 'distill.loss'?"),
            ("[distill.loss]\nx = 1", "distill.loss={'x': 1} is a table", "expected UTF-8 text"),
            (
                "[teacher]\ntemperature = 1",
                "teacher.temperature is unknown",
                "There is pretrain.temperature and",
            ),
            ("num_rounds = 3", "num_rounds is unknown", "There is federation.num_rounds."),
            ("distill = 3", "distill is a section", "distill.<name>: loss, "),
            ("'name.x' = 3", "name.x is unknown", "no section 'name'"),
        ],
    )
    def test_message_has_location_and_hint(self, tmp_path, toml, location, hint):
        text = message(tmp_path, toml)
        assert text.startswith(location)
        assert hint in text

    def test_flat(self):
        with pytest.raises(ConfigError, match=r"federation\.num_client is unknown.*'federation.num_clients'"):
            unflatten({"federation.num_client": 3})


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("seed", "1", "is text; expected a whole number"),
            ("seed", 1.0, "is a number; expected a whole number"),
            ("seed", True, "is a truth value; expected a whole number"),
            ("distill.temperature", "0.1", "is text; expected a finite number"),
            ("distill.temperature", True, "is a truth value; expected a finite number"),
            ("data.target_offset", float("inf"), "expected a finite number"),
            ("data.target_offset", float("nan"), "expected a finite number"),
            ("data.strict", 1, "is a whole number; expected true or false"),
            ("data.strict", "yes", "is text; expected true or false"),
            ("name", 5, "is a whole number; expected UTF-8 text"),
            ("name", "\udcff", "is text; expected UTF-8 text"),
            ("name", None, "is of type NoneType; expected UTF-8 text"),
            ("evaluate.num_labels", "1,x", "is text; expected whole numbers"),
            ("evaluate.num_labels", [1, "2"], "is a list; expected whole numbers"),
            ("evaluate.num_labels", True, "expected whole numbers"),
            ("evaluate.num_labels", 1.5, "is a number; expected whole numbers"),
        ],
    )
    def test_message_has_key_value_and_expectation(self, key, value, expected):
        with pytest.raises(ConfigError) as caught:
            unflatten({key: value})
        assert str(caught.value).startswith(f"{key}={value!r} ")
        assert expected in str(caught.value)

    def test_int_for_float_becomes_a_float(self):
        assert type(unflatten({"distill.temperature": 1}).distill.temperature) is float

    def test_list_and_tuple_for_integers(self):
        assert unflatten({"evaluate.num_labels": [1, 2]}).evaluate.num_labels == (1, 2)
        assert unflatten({"evaluate.num_labels": (1, 2)}).evaluate.num_labels == (1, 2)


class TestRanges:
    @pytest.mark.parametrize(
        ("toml", "make"),
        [
            ("[data]\nimage_size = 20", lambda: DataConfig(image_size=20)),
            ("[distill]\ntemperature = 0", lambda: DistillConfig(temperature=0.0)),
            ("[evaluate]\nnum_labels = [-1]", lambda: EvaluateConfig(num_labels=(-1,))),
            ("name = 'a/b'", lambda: RunConfig(name="a/b")),
        ],
    )
    def test_message_is_that_of_the_dataclass(self, tmp_path, toml, make):
        with pytest.raises(ConfigError) as direct:
            make()
        assert message(tmp_path, toml) == str(direct.value)


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match=r"none\.toml does not exist.*edgecmd init"):
            load_config(tmp_path / "none.toml")

    def test_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(tmp_path)

    def test_syntax_error_has_file_and_line(self, tmp_path):
        found = message(tmp_path, "seed = 1\n[data]\nname = emoji\n")
        assert "run.toml is not valid TOML" in found
        assert "line 3" in found

    def test_other_encoding(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_bytes("seed = 1".encode("utf-16"))
        with pytest.raises(ConfigError, match="is not UTF-8 text"):
            load_config(path)

    def test_byte_order_mark(self, tmp_path):
        path = tmp_path / "run.toml"
        path.write_bytes(b"\xef\xbb\xbfseed = 4")
        assert load_config(path).seed == 4


def test_a_shared_projector_is_refused_where_noise_is_made_for_all_weights() -> None:
    words = ["distill.freeze_projector=true"]
    assert load_config(None, words).distill.freeze_projector
    assert load_config(None, [*words, "privacy.mechanism=client"]).distill.freeze_projector
    with pytest.raises(ConfigError, match=r"freeze_projector=true and privacy\.mechanism='anchors'"):
        load_config(None, [*words, "privacy.mechanism=anchors"])


class TestSectionsByThemselves:
    """A library user makes a section without a reader before it."""

    @pytest.mark.parametrize(
        ("section", "value", "message"),
        [
            (
                DistillConfig,
                {"batch_size": 1},
                "distill.batch_size=1 is outside the allowed range [2, 65536].",
            ),
            (DistillConfig, {"learning_rate": math.nan}, "distill.learning_rate=nan is outside the allowed"),
            (DataConfig, {"image_size": 72}, "data.image_size=72 must be a multiple of 16."),
            (DataConfig, {"scenes": (1, 2, 2, 2)}, "data.scenes=1 is outside the allowed range [2, 1e+06]."),
            (
                DataConfig,
                {"copies": "drop"},
                "data.copies='drop' is unknown. Allowed: auto, join, leave-out.",
            ),
            (FederationConfig, {"deadline_s": 0.001}, "federation.deadline_s=0.001 is outside the allowed"),
        ],
    )
    def test_what_a_field_does_not_take_is_refused_by_name(self, section, value, message):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            section(**value)
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            replace(section(), **value)

    def test_other_types_are_refused_by_name_and_numbers_of_numpy_taken(self):
        """In a process of its own, without the checks of types that the tests add to every function."""
        done = subprocess.run([sys.executable, "-c", OTHER_TYPES], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            "distill.batch_size='64' is of type str; expected a whole number, such as 5.",
            "distill.batch_size=2.5 is of type float; expected a whole number, such as 5.",
            "distill.augment=True is of type bool; expected a number, such as 0.5.",
            "distill.learning_rate=None is of type NoneType; expected a number, such as 0.5.",
            "evaluate.num_labels='5' is of type str; expected a whole number, such as 5.",
            "32",
        ]

    def test_a_section_is_a_value(self):
        section = DistillConfig(batch_size=32)
        assert pickle.loads(pickle.dumps(section)) == section
        assert hash(section) == hash(DistillConfig(batch_size=32))
