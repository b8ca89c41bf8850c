"""Partitions: disjoint, complete, reproducible, and always done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data import partition as module
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.partition import MIN_PAIRS, PARTITIONS, label_skew, partition, partition_table
from edgecmd.settings import FederationConfig


def labels(values) -> Labels:
    codes = np.asarray(values, dtype=np.int64)
    return Labels(values=codes, names=tuple(f"class-{code}" for code in range(codes.max(initial=-1) + 1)))


def cut(owner, label, subgroup, *, seed=0, **federation):
    given = FederationConfig(**federation)
    return partition(
        labels(owner),
        labels(label),
        labels(subgroup),
        by=given.partition,
        num_clients=given.num_clients,
        alpha=given.alpha,
        seed=seed,
    )


DEALING = sorted(name for name, row in PARTITIONS.items() if not row.resamples)


@st.composite
def cases(draw):
    num_pairs = draw(st.integers(2, 120))
    codes = st.lists(st.integers(UNLABELLED, 5), min_size=num_pairs, max_size=num_pairs)
    owner, label, subgroup = draw(codes), draw(codes), draw(codes)
    owner[0] = label[0] = 0  # at least one is known
    federation = {
        "num_clients": draw(st.integers(1, num_pairs // MIN_PAIRS) | st.just(num_pairs // MIN_PAIRS)),
        "partition": draw(st.sampled_from(DEALING)),
        "alpha": draw(st.sampled_from([1e-3, 0.1, 1.0, 1e6])),
    }
    return owner, label, subgroup, federation, draw(st.integers(0, 2**31 - 1))


@settings(max_examples=250, deadline=2000)
@given(case=cases())
def test_disjoint_complete_reproducible(case):
    *codes, federation, seed = case
    parts = cut(*codes, seed=seed, **federation)
    num_pairs = len(codes[0])
    assert len(parts) == federation["num_clients"]
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_pairs))
    assert min(len(part) for part in parts) >= MIN_PAIRS
    assert all((np.diff(part) > 0).all() for part in parts)
    again = cut(*codes, seed=seed, **federation)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", DEALING)
@pytest.mark.parametrize("num_pairs", [4000, 4001])
def test_ends_with_as_many_clients_as_possible(name, num_pairs):
    codes = np.arange(num_pairs) % 7
    parts = cut(codes, codes, codes, num_clients=num_pairs // 2, partition=name, alpha=1e-3)
    assert sorted(len(part) for part in parts)[:-1] == [2] * (num_pairs // 2 - 1)


@pytest.mark.parametrize("name", ["iid", "dirichlet"])
def test_another_seed_gives_another_cut(name):
    codes = np.arange(200) % 4
    one = cut(codes, codes, codes, num_clients=4, partition=name, seed=0)
    other = cut(codes, codes, codes, num_clients=4, partition=name, seed=1)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_iid_sizes_differ_by_one():
    codes = np.zeros(103)
    parts = cut(codes, codes, codes, num_clients=10)
    assert sorted({len(part) for part in parts}) == [10, 11]


def test_dirichlet_follows_alpha():
    codes = np.arange(3000) % 5
    skews = [
        label_skew(
            cut(codes, codes, codes, num_clients=10, partition="dirichlet", alpha=alpha), labels(codes)
        )
        for alpha in (1e-3, 0.5, 1e6)
    ]
    assert skews[0] > 0.6
    assert skews[0] > skews[1] + 0.1 > skews[2] + 0.2
    assert skews[2] < 0.01


def test_dirichlet_deals_unlabelled_pairs_as_a_class_of_their_own():
    codes = np.array([0] * 100 + [UNLABELLED] * 100)
    parts = cut(codes, codes, codes, num_clients=2, partition="dirichlet", alpha=1e6)
    assert [int((codes[part] == UNLABELLED).sum()) for part in parts] == pytest.approx([50, 50], abs=1)


class TestOwner:
    def test_whole_owners_where_these_suffice(self):
        owner = np.array([0] * 50 + [1] * 30 + [2] * 25)
        parts = cut(owner, owner * 0, owner * 0, num_clients=2, partition="owner")
        assert [sorted({*owner[part].tolist()}) for part in parts] == [[0], [1, 2]]

    def test_whole_cells_where_these_suffice(self):
        owner = np.repeat([0, 1], 60)
        subgroup = np.tile(np.repeat([0, 1, 2], 20), 2)
        parts = cut(owner, owner, subgroup, num_clients=4, partition="owner")
        cells = [{*zip(owner[part].tolist(), subgroup[part].tolist(), strict=True)} for part in parts]
        assert [len({one for one, _ in cell}) for cell in cells] == [1, 1, 1, 1]
        assert sorted(cell for part in cells for cell in part) == [(i, j) for i in (0, 1) for j in (0, 1, 2)]

    def test_cells_are_cut_in_proportion_where_clients_are_more(self):
        owner = np.array([0] * 60 + [1] * 20)
        parts = cut(owner, owner, owner, num_clients=8, partition="owner")
        assert [len(part) for part in parts] == [10] * 8
        assert [{*owner[part].tolist()} for part in parts] == [{0}] * 6 + [{1}] * 2

    def test_a_tiny_owner_is_topped_up(self):
        owner = np.array([0] * 40 + [1])
        parts = cut(owner, owner, owner, num_clients=3, partition="owner")
        assert sorted(len(part) for part in parts) == [2, 19, 20]

    def test_pairs_without_owner_are_an_owner(self):
        owner = np.array([0] * 10 + [UNLABELLED] * 10)
        parts = cut(owner, owner, owner, num_clients=2, partition="owner")
        assert sorted({*owner[part].tolist()} == {0} for part in parts) == [False, True]


class TestUsers:
    """Two owners of 900 and 300 pairs, of three topics each."""

    OWNER, TOPIC = np.repeat([0, 1], [900, 300]), np.arange(1200) % 3

    def cut(self, **federation):
        return cut(self.OWNER, self.TOPIC, self.TOPIC, partition="users", **federation)

    def test_users_of_one_owner_in_proportion(self):
        parts = self.cut(num_clients=40, alpha=1.0)
        assert [len({*self.OWNER[part].tolist()}) for part in parts] == [1] * 40
        # By D'Hondt 900 : 300 gives 30 and 10.
        assert sorted(int(self.OWNER[part[0]]) for part in parts) == [0] * 30 + [1] * 10

    def test_few_clients_get_whole_owners(self):
        assert [{*self.OWNER[part].tolist()} for part in self.cut(num_clients=2)] == [{0}, {1}]

    def test_sizes_are_log_normal_and_topics_follow_alpha(self):
        owner, topic = np.zeros(400_000), np.arange(400_000) % 4
        even, skewed = (
            cut(owner, topic, topic, partition="users", num_clients=1000, alpha=alpha) for alpha in (1e6, 0.1)
        )
        sizes = np.log([len(part) for part in even])
        # Rounding adds little to users of some 240 pairs; standard error of the deviation is 0.022.
        assert np.std(sizes) == pytest.approx(module.SIZE_SIGMA, abs=0.1)
        assert np.mean(sizes) - np.median(sizes) == pytest.approx(0.0, abs=0.15)
        assert label_skew(even, labels(topic)) < 0.05
        assert label_skew(skewed, labels(topic)) > 0.4

    def test_who_lacks_pairs_gets_some_of_the_same_owner(self):
        """Many users of few pairs each, so that some are dealt none."""
        found = self.cut(num_clients=400, alpha=0.05)
        assert min(map(len, found)) == MIN_PAIRS
        assert all(len(set(self.OWNER[part])) == 1 for part in found)

    def test_labels_are_the_topics_where_no_pair_has_a_subgroup(self):
        nothing = np.full(1200, UNLABELLED)
        given = {"partition": "users", "num_clients": 20, "alpha": 0.1}
        one, other = cut(self.OWNER, self.TOPIC, nothing, **given), self.cut(num_clients=20, alpha=0.1)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    def test_pairs_without_owners_are_refused(self):
        nothing = np.full(10, UNLABELLED)
        with pytest.raises(ConfigError, match="'users' follows owners, but the data have none"):
            cut(nothing, np.zeros(10), np.zeros(10), partition="users", num_clients=2)


def test_shares_by_hand():
    assert module._apportion([60, 20], 8) == [6, 2]
    assert module._apportion([10, 10, 1], 5) == [2, 2, 1]


class TestErrors:
    def test_unknown_name(self):
        with pytest.raises(
            ConfigError, match=r"federation\.partition='owners' is unknown.*Did you mean 'owner'"
        ):
            cut([0, 0], [0, 0], [0, 0], num_clients=1, partition="owners")

    def test_too_many_clients(self):
        with pytest.raises(ConfigError) as caught:
            cut([0] * 9, [0] * 9, [0] * 9, num_clients=5)
        assert "num_clients=5 needs 10 training pairs" in str(caught.value)
        assert "there are 9. Set federation.num_clients to 4 or less" in str(caught.value)

    def test_a_single_pair(self):
        with pytest.raises(ConfigError, match="There are 1 training pairs"):
            cut([0], [0], [0], num_clients=1)

    @pytest.mark.parametrize(("name", "file"), [("owner", "pairs.csv"), ("dirichlet", "labels.csv")])
    def test_nothing_to_follow(self, name, file):
        unknown = [UNLABELLED] * 10
        with pytest.raises(ConfigError, match=f"partition='{name}'.*{file}.*'iid'"):
            cut(unknown, unknown, unknown, num_clients=2, partition=name)

    def test_iid_needs_no_labels(self):
        unknown = [UNLABELLED] * 10
        assert len(cut(unknown, unknown, unknown, num_clients=5)) == 5

    def test_different_lengths(self):
        with pytest.raises(DataError, match="different numbers of rows"):
            cut([0] * 10, [0] * 9, [0] * 10, num_clients=2)


class TestTable:
    parts = (np.array([0, 1, 2]), np.array([3]))

    def test_counts(self):
        table = partition_table(self.parts, labels([0, 0, 1, UNLABELLED]))
        assert table == [
            {"client": 0, "pairs": 3, "classes": {"class-0": 2, "class-1": 1}, "largest_share": 2 / 3},
            {"client": 1, "pairs": 1, "classes": {"(unlabelled)": 1}, "largest_share": 1.0},
        ]

    def test_skew_by_hand(self):
        # Overall (1/2, 1/4, 1/4); first (2/3, 1/3, 0): 1/4; second (0, 0, 1): 3/4.
        assert label_skew(self.parts, labels([0, 0, 1, UNLABELLED])) == pytest.approx(0.5)

    def test_skew_of_equal_clients_is_zero(self):
        parts = (np.array([0, 1]), np.array([2, 3]))
        assert label_skew(parts, labels([0, 1, 0, 1])) == 0.0


@settings(max_examples=50, deadline=2000)
@given(num_pairs=st.integers(2, 60), num_clients=st.integers(1, 200), each=st.integers(2, 60))
def test_resampled_clients_hold_different_pairs_and_share_them(num_pairs, num_clients, each):
    """Any number of clients, each with as many different pairs as asked; without a number those of a deal."""
    none, num = labels([0] * num_pairs), min(each, num_pairs)

    def parts(num_each):
        return partition(none, none, none, by="resampled", num_clients=num_clients, seed=0, num_each=num_each)

    found = parts(num)
    assert len(found) == num_clients
    assert all(len(part) == num and (np.diff(part) > 0).all() for part in found)
    assert all(part[0] >= 0 and part[-1] < num_pairs for part in found)
    assert all(np.array_equal(one, other) for one, other in zip(found, parts(num), strict=True))
    assert {len(part) for part in parts(0)} == {max(MIN_PAIRS, num_pairs // num_clients)}


def test_resampled_clients_draw_every_pair_equally_often():
    """By the binomial law: of 4,000 clients with 2 of 10 pairs each, 800 hold a given pair, give or take."""
    none = labels([0] * 10)
    found = partition(none, none, none, by="resampled", num_clients=4000, seed=3, num_each=2)
    counts = np.bincount(np.concatenate(found), minlength=10)
    assert np.abs(counts - 800).max() < 5 * np.sqrt(4000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("by", "num_each", "message"),
    [
        ("resampled", 1, "pairs_per_client=1 is outside 2..10"),
        ("resampled", 11, "pairs_per_client=11 is outside 2..10"),
        ("iid", 3, "pairs_per_client=3 is for federation.partition='resampled'; 'iid' deals all pairs"),
    ],
)
def test_pairs_of_a_client_that_cannot_be_had(by, num_each, message):
    none = labels([0] * 10)
    with pytest.raises(ConfigError, match=message):
        partition(none, none, none, by=by, num_clients=4, seed=0, num_each=num_each)
