"""A plan couples what must not disagree, and refuses what does not earn a guarantee."""

import math

import pytest

from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.privacy.statement import privacy_table
from tests.tiny_federation import plan_of as plan_by

WHOLE = ("federation.local_steps=1", "privacy.sampling_rate=1")


def config_of(*settings: str) -> RunConfig:
    return load_config(None, list(settings))


def plan_of(mechanism: str, *settings: str):
    plan = plan_by(config_of(f"privacy.mechanism={mechanism}", *settings))
    assert plan is not None
    return plan


def test_no_mechanism_no_plan() -> None:
    assert plan_by(config_of()) is None


@pytest.mark.parametrize(
    ("mechanism", "loss", "factor", "unit"),
    [
        ("anchors", "cmc-anchored", 1, "pair"),
        ("cosine", "cosine", 1, "pair"),
        ("groups", "cmc-groups", 2, "pair"),
        ("client", "cmc", 1, "client"),
    ],
)
def test_one_line_turns_privacy_on(mechanism: str, loss: str, factor: int, unit: str) -> None:
    plan = plan_of(mechanism, "privacy.clip=0.5")
    assert (plan.loss, plan.unit) == (loss, unit)
    assert plan.sensitivity == factor * 0.5
    assert plan.noise_std == plan.noise_multiplier * factor * 0.5
    assert plan.epsilon_after(plan.num_rounds) <= 8.0
    assert plan.epsilon_after(plan.num_rounds) > 7.9


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
def test_places_of_a_picture_are_refused_for_single_pairs_and_not_for_clients(mechanism: str) -> None:
    dense = "student.architecture=seg-50k"
    with pytest.raises(PrivacyError, match=r"locations in an image.*mechanism='client'"):
        plan_by(config_of(f"privacy.mechanism={mechanism}", dense))
    assert plan_of("client", dense).unit == "client"


def test_a_round_costs_its_steps() -> None:
    one = plan_of("anchors", "privacy.sampling_rate=0.1", "federation.local_steps=7").round_spending()
    assert (one.sampling_rate, one.count) == (0.1, 7)


def test_a_share_of_the_budget_is_the_noise_of_so_many_more_rounds() -> None:
    """Half of the budget over two rounds: as if two more came, whatever the mechanism and the sampling."""
    for mechanism in ("anchors", "groups", "client"):
        half = plan_of(mechanism, "federation.num_rounds=2", "privacy.budget_share=0.5")
        whole = plan_of(mechanism, "federation.num_rounds=4")
        assert half.noise_multiplier == whole.noise_multiplier
        assert half.epsilon_after(4) <= 8.0


def test_similarities_that_are_clipped_do_not_go_into_a_secure_sum() -> None:
    with pytest.raises(PrivacyError, match=r"mechanism='logits': the vector.*Use plain or noised-sum"):
        plan_of("logits", "privacy.engine=logits", "privacy.aggregation=secure-sum", *WHOLE)
    assert plan_of("logits", "privacy.engine=logits", "privacy.aggregation=noised-sum", *WHOLE).num_rounds > 1


def test_noise_that_is_stated_leaves_nothing_to_a_share() -> None:
    with pytest.raises(ConfigError, match=r"budget_share=0.5 chooses the noise, and.*noise_multiplier=3"):
        config_of("privacy.noise_multiplier=3", "privacy.budget_share=0.5")


def test_without_amplification_a_round_costs_its_epochs() -> None:
    """Seven steps over epochs of four bins: a pair can be in two of them."""
    plan = plan_of(
        "anchors", "privacy.sampling=none", "privacy.sampling_rate=0.25", "federation.local_steps=7"
    )
    assert (plan.num_bins, plan.round_spending().sampling_rate, plan.round_spending().count) == (4, 1.0, 2)


def test_a_client_is_amplified_only_by_a_secret_coin() -> None:
    fraction = "federation.client_fraction=0.3"
    hidden = plan_of("client", fraction).round_spending()
    assert (hidden.sampling_rate, hidden.count) == (0.3, 1)
    assert plan_of("client", fraction, "privacy.sampling=none").round_spending().sampling_rate == 1.0
    assert plan_of("client", fraction).normaliser == pytest.approx(3.0)


@pytest.mark.parametrize("loss", ["cmc", "cmd", "cmc+cmd", "simclr", "crd", "socket", "dark", "clip-rd"])
@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
def test_in_batch_losses_are_refused_with_reason_and_way_out(loss: str, mechanism: str) -> None:
    with pytest.raises(PrivacyError) as raised:
        plan_of(mechanism, f"distill.loss={loss}")
    text = str(raised.value)
    assert f"distill.loss={loss!r}" in text
    assert "other pairs of its batch" in text
    assert "508 times" in text
    assert "privacy.mechanism='client'" in text


def test_a_separable_baseline_is_refused_for_want_of_a_mechanism() -> None:
    with pytest.raises(PrivacyError, match="distill.loss='seed' is a baseline that no mechanism"):
        plan_of("anchors", "distill.loss=seed")


def test_a_loss_of_another_mechanism_is_sent_there() -> None:
    with pytest.raises(PrivacyError, match="belongs to privacy.mechanism='cosine', not to 'anchors'"):
        plan_of("anchors", "distill.loss=cosine")


@pytest.mark.parametrize(
    ("mechanism", "setting", "kind", "text"),
    [
        ("anchor", "seed=0", ConfigError, "Did you mean 'anchors'"),
        ("anchors", "privacy.engine=vmapp", ConfigError, "Did you mean 'vmap'"),
        ("anchors", "privacy.sampling=shuffle", ConfigError, "Allowed: none, poisson"),
        ("anchors", "privacy.accountant=gdp", PrivacyError, "not a bound"),
        ("groups", "privacy.engine=opacus-ghost", PrivacyError, "single rows"),
        ("client", "federation.strategy=krum", PrivacyError, "fedavg, fedprox"),
        ("client", "federation.strategy=fedmedian", PrivacyError, "single updates"),
        ("anchors", "privacy.noise_multiplier=0.6", PrivacyError, "above privacy.epsilon=8"),
    ],
)
def test_refusals(mechanism: str, setting: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        plan_of(mechanism, setting)


def test_a_given_noise_multiplier_is_kept() -> None:
    assert plan_of("anchors", "privacy.noise_multiplier=20").noise_multiplier == 20


@pytest.mark.parametrize(
    "setting", ["privacy.epsilon=0", "privacy.delta=0.5", "privacy.clip=0", "privacy.sampling_rate=1.5"]
)
def test_ranges(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0]):
        config_of(setting)


def test_the_statement_names_everything_that_it_rests_on() -> None:
    plan = plan_of("anchors")
    table = privacy_table(
        plan, {"client 0": 1.5, "client 1": 7.25}, rounds_done=50, anchors={"kind": "public"}, ledger="here"
    )
    assert table["epsilon"] == 7.25
    assert table["epsilon_by_client"] == {"client 0": 1.5, "client 1": 7.25}
    assert table["relation"] == "add or remove one pair of one client"
    assert table["delta"] == 1e-5
    assert table["accountant"].startswith("pld (dp-accounting 0.")
    assert any("final student" in one for one in table["released"])
    assert "server" in table["against"]
    assert table["epsilon_by_round"][-1][0] == 50
    assert table["epsilon_by_round"][0] == [0, 0.0]


def test_what_is_not_private_prints_no_epsilon() -> None:
    plan = plan_of("anchors", "privacy.deterministic=true")
    table = privacy_table(plan, {"client 0": 1.5}, rounds_done=5, anchors={}, ledger="")
    assert table["epsilon"] is None
    assert table["epsilon_by_client"] == {"client 0": None}
    assert table["private"] is False
    assert "NOT PRIVATE" in table["warning"]


def test_a_projection_has_less_noise_and_says_that_it_is_not_private() -> None:
    plan = plan_of("anchors", "privacy.projected_pairs=10")
    assert plan.noise_std == pytest.approx(plan_of("anchors").noise_std / 10)
    table = privacy_table(plan, {"client 0": 1.5}, rounds_done=5, anchors={}, ledger="")
    assert (table["private"], table["epsilon"]) == (False, None)
    assert "projected_pairs" in table["warning"]


def test_a_guarantee_per_pair_is_refused_where_a_pair_may_be_at_several_clients() -> None:
    """Each client would release it, and each ledger count it once; whole clients are another matter."""
    with pytest.raises(PrivacyError, match="gives a pair to several clients.*such as 'iid'"):
        plan_of("anchors", "federation.partition=resampled")
    assert plan_of("client", "federation.partition=resampled").unit == "client"


def test_an_infinite_epsilon_is_no_number() -> None:
    plan = plan_of("anchors")
    table = privacy_table(plan, {"client 0": math.inf}, rounds_done=5, anchors={}, ledger="")
    assert table["epsilon"] is None
