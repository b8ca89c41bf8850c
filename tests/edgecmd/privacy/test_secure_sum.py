"""The secure sum: the same integers as a plain sum, and nothing for anyone who leaves the protocol."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.secure_sum import terms as terms_module
from edgecmd.privacy.secure_sum.adverts import Advert
from edgecmd.privacy.secure_sum.collector import Collector, SpoiltError
from edgecmd.privacy.secure_sum.identities import (
    PinnedKeys,
    RegisteredIdentity,
    SimulatedIdentity,
    key_name,
)
from edgecmd.privacy.secure_sum.neighbours import graph, num_neighbours
from edgecmd.privacy.secure_sum.party import Party
from edgecmd.privacy.secure_sum.terms import usual_survivors
from tests.edgecmd.privacy.secure_rounds import EVERYBODY, Round, made_terms, people, whole_round

NUM = 5
NAMES = [f"client-{index}" for index in range(NUM)]
VECTORS = {name: np.array([index, -7, 2**30, 100 * index]) for index, name in enumerate(NAMES)}


def plain(names: list[str] | tuple[str, ...]) -> np.ndarray:
    """The sum modulo 2^32 by Python's own integers."""
    columns = zip(*(VECTORS[name].tolist() for name in names), strict=True)
    return np.array([sum(one) % 2**32 for one in columns], dtype=np.uint32)


def begun() -> Round:
    return Round(made_terms(), people(NUM)).share()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=NUM, max_size=NUM), st.randoms())
def test_every_pattern_of_drop_outs_gives_the_plain_sum_or_nothing(steps: list[int], order: object) -> None:
    """``steps[i]``: how many of the five steps party i takes: keys, shares, vector, vote, unmasking."""
    taken = dict(zip(NAMES, steps, strict=True))
    terms = made_terms()
    # Whoever is gone after the keys is left out, and the others draw new ones.
    ready = [name for name in NAMES if taken[name] > 1]
    if len(ready) < terms.survivors:
        with pytest.raises(PrivacyError, match="cohort has"):
            Round(terms, [SimulatedIdentity(name=name) for name in ready]).share()
        return
    current = Round(terms, [SimulatedIdentity(name=name) for name in ready]).share()

    def those(least: int) -> list[str]:
        named = [name for name in ready if taken[name] >= least]
        order.shuffle(named)  # type: ignore[attr-defined]
        return named

    current.mask({name: VECTORS[name] for name in those(3)})
    if len(those(3)) < terms.survivors:
        for name in those(3):
            with pytest.raises(PrivacyError, match="are needed"):
                current.vote([name])
        return
    current.vote(those(4))
    if len(those(4)) < terms.survivors:
        for name in those(4):
            with pytest.raises(PrivacyError, match="agree on who answered"):
                current.unmask([name])
        return
    current.unmask(those(5))
    if len(those(5)) < terms.survivors:
        with pytest.raises(SpoiltError, match="Nothing is released"):
            current.collector.total()
        return
    assert np.array_equal(current.collector.total(), plain(those(3)))


@pytest.mark.parametrize("num_gone", [0, 7])
def test_a_graph_of_neighbours_gives_the_plain_sum(num_gone: int) -> None:
    """Beyond 31 parties each masks with some of the others alone; up to 7 of 40 are gone after the shares."""
    terms = made_terms(cohort=40, survivors=30, dim=3, bound=100.0)
    current = Round(terms, people(40)).share()
    assert {len(those) for those in current.collector.cohort.graph.values()} == {num_neighbours(40, terms)}
    assert num_neighbours(40, terms) < 39
    generator = np.random.default_rng(0)
    names = [f"client-{index}" for index in range(num_gone, 40)]
    vectors = {name: generator.integers(-100, 100, 3) for name in names}
    total = current.mask(vectors).vote(names).unmask(names).collector.total()
    assert np.array_equal(total.view(np.int32), np.sum(list(vectors.values()), axis=0))


def test_a_graph_is_regular_symmetric_connected_and_follows_from_its_seed() -> None:
    terms = made_terms(cohort=200, survivors=150, colluding=3)
    names = [str(index) for index in range(200)]
    made = graph(names, terms, seed=b"seed")
    assert made == graph(reversed(names), terms, seed=b"seed") != graph(names, terms, seed=b"other")
    assert len({len(those) for those in made.values()}) == 1
    assert all(one in made[other] and one != other for one, those in made.items() for other in those)
    # Its reach is what makes the bound of the docstring: 200^2 / 2 * (53 / 200)^k <= 2^-40.
    k = num_neighbours(200, terms)
    assert 200**2 / 2 * (53 / 200) ** k <= 2.0**-40


def test_usual_survivors_are_always_allowed_where_anything_is() -> None:
    for cohort in range(2, 80):
        for colluding in range(cohort - 1):
            least = max((cohort + colluding) // 2 + 1, colluding + 2)
            chosen = usual_survivors(cohort=cohort, colluding=colluding)
            if least <= cohort:
                terms_module.require_cohort(cohort=cohort, survivors=chosen, colluding=colluding)


@pytest.mark.parametrize(
    ("cohort", "survivors", "colluding"), [(10, 5, 0), (10, 6, 2), (10, 11, 0), (1, 1, 0), (3, 3, 2)]
)
def test_terms_with_which_views_could_be_split_are_refused(
    cohort: int, survivors: int, colluding: int
) -> None:
    with pytest.raises(PrivacyError, match="privacy.min_survivors"):
        made_terms(cohort=cohort, survivors=survivors, colluding=colluding)


def test_a_planted_overflow_is_refused_and_the_largest_sum_that_fits_is_exact() -> None:
    with pytest.raises(PrivacyError, match="does not fit into 32 bits"):
        made_terms(bound=2.0**31 / NUM)
    with pytest.raises(PrivacyError, match="does not fit into 32 bits"):
        # Noise alone: 12 standard deviations of five shares are 2^31.
        made_terms(bound=1.0, variance=(2.0**31 / 12) ** 2 * 3 / 5)
    largest = (2**31 - 1) // NUM - 1
    terms = made_terms(bound=float(largest - 1))
    sums = whole_round(terms, {name: np.array([largest, -largest, 0, 1]) for name in NAMES})
    assert sums.tolist() == [NUM * largest, -NUM * largest, 0, NUM]


def test_a_message_in_the_place_of_another_is_refused() -> None:
    """Reflected, swapped between senders, of another round, of another run, changed in one bit."""
    current = begun()
    others = {
        "another round": Round(made_terms(round_index=2), people(NUM)).share(),
        "another run": Round(made_terms(run="fedcba9876543210"), people(NUM)).share(),
        "the same round again": begun(),
    }
    own, first, second = NAMES[0], NAMES[1], NAMES[2]
    good = current.collector.envelopes[own]
    planted = {
        "reflected": {**good, first: current.collector.envelopes[first][own]},
        "swapped": {**good, first: good[second], second: good[first]},
        "changed": {**good, first: bytes([good[first][0] ^ 1]) + good[first][1:]},
        "cut": {**good, first: good[first][:-1]},
    }
    planted |= {name: {**good, first: one.collector.envelopes[own][first]} for name, one in others.items()}
    for envelopes in planted.values():
        with pytest.raises(PrivacyError, match="were changed"):
            current.parties[own].mask(envelopes, VECTORS[own])
    for envelopes in ({**good, own: good[first]}, {key: good[key] for key in (first, second)}):
        with pytest.raises(PrivacyError, match="all neighbours"):
            current.parties[own].mask(envelopes, VECTORS[own])


@pytest.mark.parametrize("what", ["pairs", "seal", "commitment", "signature", "name"])
def test_keys_that_were_changed_are_refused(what: str) -> None:
    current = Round(made_terms(), people(NUM))
    value = "client-9" if what == "name" else bytes(32)
    current.adverts[1] = replace(current.adverts[1], **{what: value})
    with pytest.raises(PrivacyError, match="not signed"):
        current.share([NAMES[0]])


def test_own_keys_must_be_there_and_nobody_may_be_there_twice() -> None:
    current = Round(made_terms(), people(NUM))
    party, advert = Party.begin(made_terms(), SimulatedIdentity(name=NAMES[0]))
    with pytest.raises(PrivacyError, match="own keys"):
        party.share(current.adverts, EVERYBODY)
    with pytest.raises(PrivacyError, match="twice"):
        current.parties[NAMES[0]].share([*current.adverts, advert], EVERYBODY)


def test_registered_keys_are_verified_against_the_pinned_list() -> None:
    """A server that signs with keys of its own, or shows other terms to some, is refused."""
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(4)]
    pinned = PinnedKeys(keys={key_name(key.public_key()): key.public_key() for key in keys[:3]})
    terms = made_terms(cohort=3, survivors=2)
    known = Round(terms, [RegisteredIdentity(key=key) for key in keys[:3]], pinned).share()
    vectors = dict(zip(known.parties, VECTORS.values(), strict=False))
    total = known.mask(vectors).vote(vectors).unmask(vectors).collector.total()
    assert np.array_equal(total, plain(NAMES[:3]))

    strange = Round(terms, [RegisteredIdentity(key=key) for key in keys[1:]], pinned)
    with pytest.raises(PrivacyError, match="pinned here"):
        strange.share()
    # Signed by the server in the name of a pinned node.
    mixed = Round(terms, [RegisteredIdentity(key=key) for key in keys[:3]], pinned)
    forged = Round(terms, [RegisteredIdentity(key=keys[3])], pinned).adverts[0]
    mixed.adverts[2] = replace(forged, name=mixed.adverts[2].name)
    with pytest.raises(PrivacyError, match="pinned here"):
        mixed.share()
    # The noise of the others would be less than this party counts on.
    quiet = Round(replace(terms, bound=1.0), [RegisteredIdentity(key=keys[2])], pinned)
    mixed.adverts[2] = quiet.adverts[0]
    with pytest.raises(PrivacyError, match="these terms"):
        mixed.share()


def test_parties_that_were_shown_other_cohorts_do_not_mask() -> None:
    terms = made_terms(cohort=5, survivors=3)
    current = Round(terms, people(NUM))
    seen = dict.fromkeys(NAMES[:4], current.adverts[:4]) | {NAMES[0]: current.adverts[:3]}
    sent = {}
    for name, adverts in seen.items():
        current.parties[name], sent[name] = current.parties[name].share(adverts, EVERYBODY)
    got = {sender: sent[sender][NAMES[1]] for sender in NAMES[:4] if sender != NAMES[1]}
    with pytest.raises(PrivacyError, match="another cohort"):
        current.parties[NAMES[1]].mask(got, VECTORS[NAMES[1]])


def test_a_server_gets_one_secret_of_each_party_and_one_set_of_survivors() -> None:
    """It asks again, asks for other survivors, lies about who voted, or names a set below the threshold."""
    current = begun().mask(VECTORS)
    collector, own = current.collector, current.parties[NAMES[0]]
    for bad in (NAMES[1:], [*NAMES, "client-9"], [*NAMES[:4], NAMES[0]]):
        with pytest.raises(PrivacyError, match="not parties of the cohort"):
            own.cast(bad, SimulatedIdentity(name=NAMES[0]))
    with pytest.raises(PrivacyError, match="are needed"):
        own.cast(NAMES[:2], SimulatedIdentity(name=NAMES[0]))
    current.vote(NAMES[:3])
    with pytest.raises(PrivacyError, match="out of its order"):
        current.parties[NAMES[0]].cast(NAMES[:3], SimulatedIdentity(name=NAMES[0]))
    # Votes of the two others for the set without the last one do not help the first set.
    voted = current.parties[NAMES[0]]
    for name in NAMES[3:]:
        current.parties[name], collector.votes[name] = current.parties[name].cast(
            [NAMES[0], *NAMES[3:]], SimulatedIdentity(name=name)
        )
    forged = {**collector.votes, NAMES[1]: collector.votes[NAMES[0]]}
    with pytest.raises(PrivacyError, match="2 parties agree"):
        voted.unmask(forged, EVERYBODY)
    shares = voted.unmask(collector.votes, EVERYBODY)
    halves = {name: voted.held[name][:16] for name in NAMES}
    assert shares == halves


@pytest.mark.parametrize("colluding", [0, 1, 2])
def test_no_server_gets_enough_shares_of_both_secrets(colluding: int) -> None:
    """By counting: honest parties vote once, so two sets of survivors never both get enough votes."""
    for cohort in range(2, 60):
        for survivors in range(1, cohort + 1):
            try:
                terms_module.require_cohort(cohort=cohort, survivors=survivors, colluding=colluding)
            except PrivacyError:
                continue
            assert 2 * survivors > (cohort - colluding) + 2 * colluding
            assert survivors - colluding >= 2


def test_steps_out_of_order_are_refused() -> None:
    current = begun()
    party = current.parties[NAMES[0]]
    for call in (
        lambda: party.share(current.adverts, EVERYBODY),
        lambda: party.cast(NAMES, SimulatedIdentity(name=NAMES[0])),
        lambda: party.unmask({}, EVERYBODY),
    ):
        with pytest.raises(PrivacyError, match="out of its order") as caught:
            call()
        assert caught.value.code == "secure-sum"
    current.mask({NAMES[0]: VECTORS[NAMES[0]]})
    with pytest.raises(PrivacyError, match="out of its order"):
        current.mask({NAMES[0]: VECTORS[NAMES[0]]})


def test_a_state_survives_packing() -> None:
    current = begun().mask(VECTORS).vote(NAMES)
    for name, party in current.parties.items():
        again = Party.unpacked(party.packed(), party.terms)
        assert again == party, name


def test_false_shares_and_garbage_spoil_the_round_and_say_so() -> None:
    current = begun().mask(VECTORS).vote(NAMES)
    for name in NAMES:
        shares = current.parties[name].unmask(current.collector.votes, EVERYBODY)
        if name == NAMES[0]:
            shares[NAMES[3]] = bytes(16)
        assert current.collector.add_shares(name, shares)
    with pytest.raises(SpoiltError, match="client-3 do not restore it"):
        current.collector.total()
    assert not current.collector.add_shares(NAMES[0], {NAMES[1]: bytes(16)})
    assert not current.collector.add_shares(NAMES[0], dict.fromkeys(NAMES, b"short"))
    assert not current.collector.add_envelopes(NAMES[0], {NAMES[1]: b""})


@pytest.mark.parametrize("content", [b"", b"[]", b'["a", "00", "00", "00", "00"]', b"\xff", b"[1, 2]", b"3"])
def test_what_is_no_advert_is_refused(content: bytes) -> None:
    with pytest.raises(PrivacyError, match="keys"):
        Advert.unpacked(content)


def test_keys_that_agree_with_everybody_are_refused() -> None:
    """The point of order 1: X25519 gives zeros for it, whoever asks."""
    current = Round(made_terms(), people(NUM))
    identity = SimulatedIdentity(name=NAMES[1])
    weak = replace(current.adverts[1], seal=bytes(32))
    current.adverts[1] = replace(weak, signature=identity.sign(weak.text(made_terms())))
    with pytest.raises(PrivacyError, match="public key of the round is none"):
        current.share([NAMES[0]])


def test_the_inbox_given_the_sum_does_not_depend_on_one_party() -> None:
    """Chi-square on the low 3 bits of what two parties send, jointly, for two updates with equal sums.

    The exact argument is in the docstring of `party`. Bits that are uniform and independent in both worlds
    have the same distribution in both; the statistic has 63 degrees of freedom, and exceeds 130 with a chance
    below 1e-6.
    """
    terms = made_terms(cohort=3, survivors=2, dim=2000)
    for own, other in ((0, 0), (1000, -1000)):
        vectors = {
            "client-0": np.full(2000, own),
            "client-1": np.full(2000, other),
            "client-2": np.zeros(2000, np.int64),
        }
        counts = np.zeros(64)
        for _ in range(10):
            sent = Round(terms, people(3)).share().mask(vectors).masked
            pairs = (sent["client-0"] % 8) * 8 + sent["client-1"] % 8
            counts += np.bincount(pairs, minlength=64)
        expected = counts.sum() / 64
        assert float(((counts - expected) ** 2 / expected).sum()) < 130.0


def test_a_collector_needs_a_cohort() -> None:
    with pytest.raises(PrivacyError, match="allowed are 3 to 5") as caught:
        Collector.begin(Round(made_terms(), people(2)).adverts, made_terms())
    assert caught.value.code == "too-few"
