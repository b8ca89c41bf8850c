"""Numbers of the student beside those of the baselines, and which is best."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgecmd.core import text
from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, Measured, best_of
from edgecmd.report.numbers import share
from edgecmd.report.read import Table

LABELLINGS = ("group", "subgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One result.

    Attributes:
        value: A share between 0 and 1.
        low: Lower end of its 95% interval; None where none is told.
        high: Upper end; None as ``low``.
        rests: Repetitions and test items, by which it is compared with others.
    """

    value: float
    low: float | None = None
    high: float | None = None
    rests: Measured | None = None

    @property
    def interval(self) -> str:
        """The interval as a note below the value; empty where none is told."""
        if self.low is None or self.high is None:
            return ""
        if abs((self.high - self.value) - (self.value - self.low)) < 1e-6:
            return f"± {share((self.high - self.low) / 2)}"
        return f"{share(self.low)} to {share(self.high)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One metric over all methods.

    Attributes:
        title: Header.
        scores: Score by method, without those that do not have it.
        chance: What guessing reaches, where it is known.
        faults: Methods whose embeddings tell nothing apart; they are ranked nowhere.
    """

    title: str
    scores: Mapping[str, Score]
    chance: float | None = None
    faults: frozenset[str] = frozenset()

    def is_best(self, method: str) -> bool:
        """Whether it is better than every other method by more than chance."""
        rivals = {
            name: score.rests or Measured(value=score.value, is_share=False)
            for name, score in self.scores.items()
            if name not in self.faults
        }
        return best_of(rivals) == method

    def top(self) -> list[str]:
        """Methods with the highest figure at the precision that is shown, told apart or not."""
        rivals = {name: score for name, score in self.scores.items() if name not in self.faults}
        highest = max((score.value for score in rivals.values()), default=0.0)
        return [name for name, score in rivals.items() if share(score.value) == share(highest)]


def methods(evaluation: Table) -> dict[str, Table]:
    """Table of each method, the student first."""
    found = {"student": evaluation.get("student"), **(evaluation.get("baselines") or {})}
    return {name: table for name, table in found.items() if isinstance(table, Mapping)}


def columns(evaluation: Table) -> list[Column]:
    """Every metric that at least one method has, in the order of the page."""
    tables = methods(evaluation)
    num = num_ranked(evaluation)
    found = [
        _column(
            f"R@{at}", tables, _plain, "retrieval", f"recall@{at}", chance=_chance(tables, at=at, num=num)
        )
        for at in _ranks(tables)
        if not num or at < num
    ]
    by_class, one_shot = _first(tables, "class_chance"), _first(tables, "one_shot", "chance")
    found += [
        _column("class R@1", tables, _plain, "retrieval", "class_recall@1", chance=by_class),
        _column("strict R@1", tables, _plain, "retrieval_strict", "recall@1"),
        _column("one-shot", tables, _plain, "one_shot", "one_shot", chance=one_shot),
    ]
    labelling = main_labelling(evaluation)
    found += [
        replace(column, title=f"{title} {column.title}")
        for probe, title in (("linear", "probe"), ("finetune", "tuned"))
        for column in few_label_columns(evaluation, labelling, probe)
    ]
    found.append(_column("NMI", tables, _nmi, labelling))
    return [column for column in found if column.scores]


def of_student(evaluation: Table) -> dict[str, Score]:
    """Scores of the student by the title of their column."""
    return {one.title: one.scores["student"] for one in columns(evaluation) if "student" in one.scores}


def _chance(tables: Mapping[str, Table], *, at: int, num: int) -> float | None:
    """Chance of R@``at``: as it was measured where several things are right, else of one in ``num``."""
    told = _first(tables, "retrieval_chance", f"recall@{at}")
    return told if told is not None else (at / num if num else None)


def num_ranked(evaluation: Table) -> int:
    """How many things retrieval looks among; 0 where that is not known."""
    found = (int(table.get("num_ranked") or 0) for table in methods(evaluation).values())
    return max(found, default=0) or num_things(evaluation)


def num_things(evaluation: Table) -> int:
    """How many things the test can be asked for; 0 where that is not known."""
    return max((_num_items(table) or 0 for table in methods(evaluation).values()), default=0)


def faults(evaluation: Table) -> dict[str, str]:
    """Why the embeddings of a method tell nothing apart, by method."""
    return {name: str(table["fault"]) for name, table in methods(evaluation).items() if table.get("fault")}


def _num_items(table: Table) -> int | None:
    found = table.get("num_things") or table.get("num_test")
    return int(found) if found else None


def unseen(evaluation: Table) -> str:
    """What test and training pairs do not share, in the plural."""
    return str((evaluation.get("student") or {}).get("unseen", "concepts"))


def unseen_text(evaluation: Table) -> str:
    """The same, with what the test shares with training after all."""
    return text.unseen_text(unseen(evaluation), shared(evaluation))


def shared(evaluation: Table) -> str:
    """What the test has in common with training all the same, in words; empty where that is nothing."""
    return str((evaluation.get("student") or {}).get("shared", ""))


def is_class_paired(evaluation: Table) -> bool:
    """Whether the pairs were matched by class, so that any source image of the class is the right one."""
    return (evaluation.get("student") or {}).get("kind") == "class-paired"


def main_labelling(evaluation: Table) -> str:
    """The labelling that the main table and the chart show: the coarsest there is."""
    return next(iter(labellings(evaluation)), "")


def labellings(evaluation: Table) -> list[str]:
    """All labellings with results, the coarsest first."""
    found = (_at(table, "few_labels") or {} for table in methods(evaluation).values())
    have = {name for few in found for name, rows in few.items() if rows}
    return sorted(have, key=lambda name: (LABELLINGS.index(name) if name in LABELLINGS else 9, name))


def num_labels(evaluation: Table, labelling: str, probe: str) -> list[str]:
    """Numbers of labels per class that were measured, rising, ``all`` last."""
    have = {
        str(key)
        for table in methods(evaluation).values()
        for key in _at(table, "few_labels", labelling, probe) or {}
    }
    return sorted(have, key=lambda key: float("inf") if key == "all" else float(key))


def few_label_columns(evaluation: Table, labelling: str, probe: str) -> list[Column]:
    """Accuracy of each method by number of labels; the titles are the numbers."""
    tables = methods(evaluation)
    # Accuracy of always naming the most frequent class.
    floor = few_label_fact(evaluation, labelling, "majority")
    return [
        _column(label, tables, _probe, labelling, probe, label, chance=floor)
        for label in num_labels(evaluation, labelling, probe)
    ]


def labels_a_class(evaluation: Table, labelling: str) -> float | None:
    """Mean number of labels per class where all of the pool are used."""
    pool, classes = (few_label_fact(evaluation, labelling, key) for key in ("num_pool", "num_classes"))
    return pool / classes if pool and classes else None


def few_label_fact(evaluation: Table, labelling: str, key: str) -> float | None:
    """A figure of the labels, such as ``num_classes``, from the first method that has it."""
    return _first(methods(evaluation), "few_labels", labelling, key)


def _first(tables: Mapping[str, Table], *keys: str) -> float | None:
    """Number at nested keys, from the first method that has it."""
    found = (_at(table, *keys) for table in tables.values())
    return next((float(one) for one in found if one is not None), None)


def _at(table: Any, *keys: str) -> Any:  # noqa: ANN401 - of a file
    for key in keys:
        table = (table or {}).get(key)
    return table


def _ranks(tables: Mapping[str, Table]) -> list[int]:
    names = {name for table in tables.values() for name in table.get("retrieval") or {}}
    return sorted(int(name.removeprefix("recall@")) for name in names if name.startswith("recall@"))


def _column(
    title: str,
    tables: Mapping[str, Table],
    score: Callable[..., Score | None],
    *place: str,
    chance: float | None = None,
) -> Column:
    found = {name: score(table, *place) for name, table in tables.items()}
    return Column(
        title=title,
        scores={name: one for name, one in found.items() if one is not None},
        chance=chance,
        faults=frozenset(name for name, table in tables.items() if table.get("fault")),
    )


def _plain(table: Table, group: str, name: str) -> Score | None:
    value, found = _at(table, group, name), table.get(group) or {}
    if value is None:
        return None
    # The strict test is part of the test and does not say how large it is: never fewer than that.
    num = found.get("num_concepts", _num_items(table) if group == "retrieval" else None)
    items = None if num is None else int(num)
    rests = Measured(value=float(value), num_items=items, is_share=items is not None)
    return Score(value=float(value), rests=rests)


def _nmi(table: Table, labelling: str) -> Score | None:
    value = _at(table, "clusters", labelling, "nmi")
    return None if value is None else Score(value=float(value))


def _probe(table: Table, labelling: str, probe: str, label: str) -> Score | None:
    row, num = (
        _at(table, "few_labels", labelling, probe, label),
        _at(table, "few_labels", labelling, "num_test"),
    )
    if row is None:
        return None
    value, values = float(row["mean"]), tuple(float(one) for one in row.get("values") or ())
    rests = Measured(value=value, values=values, num_items=None if num is None else int(num))
    low, high = _ends(row, num_items=rests.num_items)
    return Score(value=value, low=low, high=high, rests=rests)


def _ends(row: Table, *, num_items: int | None) -> tuple[float, float] | tuple[None, None]:
    """Ends of a row's interval; none where too little is behind it, as in files of older versions."""
    low, high = row.get("low"), row.get("high")
    is_little = row.get("num", 1) < MIN_REPEATS or (num_items is not None and num_items < MIN_ITEMS)
    if low is None or high is None or is_little or low == high:
        return None, None
    return max(0.0, float(low)), min(1.0, float(high))
