"""Presets resolve to settings, federations are read from short names, misspellings are told."""

import pytest

from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.compare.federations import parse_federation, parse_federations
from edgecmd.experiments.compare.methods import EVERY, LABEL_FREE, OTHERS, PAPER
from edgecmd.experiments.presets import compared_pairs, form_of, overrides_of, tuned_labels_of
from edgecmd.losses import LOSSES
from edgecmd.models.students import STUDENTS


@pytest.mark.parametrize("pair", compared_pairs())
@pytest.mark.parametrize("fast", [True, False])
def test_a_preset_is_settings_that_the_reader_takes(pair: str, fast: bool) -> None:
    config = load_config(None, [*overrides_of(pair, fast=fast), "federation.local_steps=2"])
    assert config.data.name == pair
    assert config.student.architecture in STUDENTS
    assert config.name == f"{pair}-{'fast' if fast else 'full'}"
    assert config.federation.local_steps == 2
    form = form_of(pair)
    assert set(form.methods) <= {*EVERY, "scratch"}
    label = form.headline.rpartition("_")[2]
    assert not label.isdigit() or int(label) in config.evaluate.num_labels


def test_the_fast_form_is_less_work_than_the_full_one() -> None:
    for pair in compared_pairs():
        fast, full = (load_config(None, overrides_of(pair, fast=form)) for form in (True, False))
        work = [
            one.federation.num_rounds * one.federation.client_fraction * one.distill.batch_size
            for one in (fast, full)
        ]
        assert 3 * work[0] < work[1]


def test_an_unknown_pair_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"--pair='emojis' is unknown.*Did you mean 'emoji'"):
        form_of("emojis")


def test_the_fast_form_fine_tunes_with_few_of_the_label_counts() -> None:
    form = form_of("emoji")
    assert tuned_labels_of(form, (1, 5, 10, 30, 0), fast=True) == (10,)
    assert tuned_labels_of(form, (1, 5, 10, 30, 0), fast=False) == (1, 5, 10, 30, 0)


def test_every_method_of_the_paper_and_of_others_is_there_once() -> None:
    assert set(EVERY) == {
        *("cmc", "cmd", "cmc+cmd", "cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"),
        *("l2", "socket", "seed", "crd", "dark", "clip-rd", "fd-cmkd", "simclr", "presimclr"),
        *("supervised", "supervised-all", "teacher", "teacher-source", "untrained"),
    }
    assert len(EVERY) == len(set(EVERY)) == 20
    assert set(LABEL_FREE) - {"presimclr"} <= set(LOSSES)
    assert not set(PAPER) & set(OTHERS)


def test_federations_are_read_from_short_names() -> None:
    central, iid, skewed, part = parse_federations("central, iid:10,dirichlet0.1:10,iid:50/10")
    assert central.central
    assert central.applied(RunConfig()) == RunConfig()
    assert iid.applied(RunConfig()).federation.num_clients == 10
    applied = skewed.applied(RunConfig()).federation
    assert (applied.partition, applied.alpha, applied.client_fraction) == ("dirichlet", 0.1, 1.0)
    assert part.applied(RunConfig()).federation.client_fraction == pytest.approx(0.2)
    assert part.folder == "iid-50-of-10"
    assert "10 of them asked" in part.title
    assert parse_federations("") == []
    assert len(parse_federations("iid:10,iid:10")) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iid", "Did you mean 'iid:"),
        ("idd:10", "Did you mean 'iid:10'"),
        ("iid0.1:10", "A concentration is for dirichlet and users alone"),
        ("dirichlet:10", "A concentration is for dirichlet and users alone"),
        ("iid:10/11", "no more clients can be asked"),
        ("iid:0", "no more clients can be asked"),
        ("dirichlet.:10", "Allowed: central"),
    ],
)
def test_bad_federations_are_told(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_federation(name)
