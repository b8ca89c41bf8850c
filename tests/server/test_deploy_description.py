"""The description of a federation: what it becomes, and what is refused with which sentence."""

from pathlib import Path

import pytest

from edgecmd.config.reader import load_config
from edgecmd.core.errors import ConfigError
from server.deploy.description import EXAMPLE, Deployment, example_deployment, read_deployment, with_rounds

MINIMAL = """\
name = "lab"
[server]
address = "fl.example.org:9092"
out = "/srv/runs"
[[site]]
name = "north"
data-dir = "/srv/pairs"
state-dir = "/srv/state"
"""


def read(folder: Path, text: str) -> Deployment:
    path = folder / "federation.toml"
    path.write_text(text, encoding="utf-8")
    return read_deployment(path)


def test_the_example_is_valid_and_says_what_it_says(tmp_path: Path) -> None:
    found = read(tmp_path, EXAMPLE)
    assert found == example_deployment()
    assert [site.name for site in found.sites] == ["north", "south"]
    assert (found.host, found.port, found.days) == ("localhost", 9092, 365)
    assert found.settings["privacy.mechanism"] == "anchors"
    assert found.settings["federation.num_clients"] == 2


def test_what_is_not_set_stays_a_default_wherever_it_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, MINIMAL)
    assert dict(found.settings) == {"name": "lab", "out": "/srv/runs", "federation.num_clients": 1}
    assert found.shared_settings == {"federation.num_clients": 1}
    assert dict(found.sites[0].node) == {"data-dir": "/srv/pairs", "state-dir": "/srv/state"}


def test_settings_are_those_of_a_run(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "[[site]]", "[run]\nfederation.num_rounds = 7\ndistill.learning_rate = 0.5\n[[site]]"
    )
    found = read(tmp_path, text)
    expected = load_config(None, ["federation.num_rounds=7", "distill.learning_rate=0.5"])
    assert found.settings["federation.num_rounds"] == expected.federation.num_rounds
    assert found.settings["distill.learning_rate"] == expected.distill.learning_rate


def test_what_the_server_alone_reads_stays_with_it(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "[[site]]", '[server.settings]\ndata.name = "folder"\ndata.path = "/srv/own"\n[[site]]'
    )
    found = read(tmp_path, text)
    assert dict(found.server_settings) == {"data.name": "folder", "data.path": "/srv/own"}
    assert "data.path" not in found.settings


@pytest.mark.parametrize(
    ("host", "shown"),
    [("10.0.0.1", "10.0.0.1:9092"), ("[2001:db8::1]", "[2001:db8::1]:9092"), ("a-b.c", "a-b.c:9092")],
)
def test_addresses(tmp_path: Path, host: str, shown: str) -> None:
    assert read(tmp_path, MINIMAL.replace("fl.example.org", host)).address == shown


def test_other_rounds_leave_the_rest() -> None:
    before = example_deployment()
    after = with_rounds(before, 2)
    assert after.settings["federation.num_rounds"] == 2
    assert {**after.settings, "federation.num_rounds": 20} == dict(before.settings)


WRONG = {
    "a second name": ('name = "lab"', 'name = "Lab 1"', "name='Lab 1'"),
    "no name": ('name = "lab"\n', "", "name is missing"),
    "a name of another type": ('name = "lab"', "name = 3", "name is 3"),
    "no port": ("fl.example.org:9092", "fl.example.org", "server.address='fl.example.org'"),
    "port zero": (":9092", ":0", "a port"),
    "port too high": (":9092", ":65536", "a port"),
    "no host": ("fl.example.org", "", "a host name"),
    "a scheme": ("fl.example.org", "https://fl", "a host name"),
    "relative out": ("/srv/runs", "runs", "server.out='runs' must be an absolute path"),
    "days of zero": ("[[site]]", "[more]\n[[site]]", "more is unknown"),
    "an unknown key": ('address = "', 'adress = "', "server.adress is unknown"),
    "a wrong table": ("[server]", "[sever]", "sever is unknown"),
    "an out of two lines": ("/srv/runs", "/srv/ru\\nns", "must be an absolute path"),
    "pairs with a NUL": ("/srv/pairs", "/srv/pa\\u0000irs", "Site north has data-dir"),
    "a file with a NUL": ("[[site]]", '[[site]]\nledger-key = "/k\\u0000"', "contains a NUL character"),
    "a word in place of yes": ("[[site]]", '[[site]]\ntell-epsilon = "so"', "is neither true nor false"),
    "no sites": ("[[site]]", "[run.data]", "no [[site]]"),
    "one site as a table": ("[[site]]", "[site]", "no [[site]]"),
    "a site without a name": ('name = "north"\n', "", "site 1: name is missing"),
    "a name that leaves its folder": ('name = "north"', 'name = "../north"', "name of site 1='../north'"),
    "no pairs": ('data-dir = "/srv/pairs"\n', "", "Site north has data-dir=''"),
    "relative pairs": ("/srv/pairs", "pairs", "Site north has data-dir='pairs'"),
    "relative state": ("/srv/state", "state", "Site north has state-dir='state'"),
    "an index": ("[[site]]", "[[site]]\npartition-id = 1", "for simulations"),
    "a misspelt bound": ("[[site]]", "[[site]]\nmax-epsilom = 1.0", "Did you mean 'max-epsilon'"),
    "a bound of zero": (
        "[[site]]",
        "[[site]]\nmax-epsilon = 0.0",
        "Site north: The node config has max-epsilon=0.0",
    ),
    "an unknown setting": ("[[site]]", "[run]\nfederation.rounds = 3\n[[site]]", "federation.rounds"),
    "a setting out of range": ("[[site]]", "[run]\nfederation.num_rounds = -3\n[[site]]", "num_rounds"),
    "a path for all": ("[[site]]", '[run]\ndata.path = "/x"\n[[site]]', "run.data.path cannot be set here"),
    "the number of sites": (
        "[[site]]",
        "[run]\nfederation.num_clients = 9\n[[site]]",
        "run.federation.num_clients",
    ),
    "a shared setting for the server": (
        "[[site]]",
        "[server.settings]\nseed = 1\n[[site]]",
        "server.settings.seed is no setting of the server alone",
    ),
    "not TOML": ("[server]", "[server", "not valid TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    old, new, said = WRONG[case]
    assert MINIMAL.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, MINIMAL.replace(old, new, 1))
    assert said in str(caught.value)
    assert "federation.toml" in str(caught.value)


@pytest.mark.parametrize("days", ["0", "3651", "1.5", "true", '"365"'])
def test_days_are_whole_and_in_range(tmp_path: Path, days: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.days"):
        read(tmp_path, MINIMAL.replace("[[site]]", f"days = {days}\n[[site]]"))


def test_two_sites_of_one_name(tmp_path: Path) -> None:
    again = MINIMAL[MINIMAL.index("[[site]]") :]
    with pytest.raises(ConfigError, match="Two sites have the name 'north'"):
        read(tmp_path, MINIMAL + again)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist.*edgecmd deploy example"):
        read_deployment(tmp_path / "nowhere.toml")
