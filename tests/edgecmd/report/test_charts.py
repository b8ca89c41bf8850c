"""Charts: what is drawn, and that it is drawn the same way twice."""

from html import escape

import numpy as np
import pytest

from edgecmd.report.charts import (
    OTHER,
    UNLABELLED,
    class_counts,
    colours,
    few_labels_curve,
    label_places,
    loss_curve,
    partition_chart,
    shown_classes,
    validation_curve,
)
from edgecmd.report.drawing import AREAS, REST

ROUNDS = [
    {"round": 1, "loss": 4.0},
    {"round": 2, "loss": 3.0, "val_recall@1": 0.25},
    {"round": 3, "loss": 2.5},
]


def client(number: int, **classes: int) -> dict:
    return {"client": number, "pairs": sum(classes.values()), "classes": classes, "largest_share": 0.5}


def contrast(colour: str, other: str = "#ffffff") -> float:
    """Contrast ratio of WCAG 2.2."""
    values = [[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in (colour, other)]
    linear = np.where(
        np.array(values) <= 0.04045, np.array(values) / 12.92, ((np.array(values) + 0.055) / 1.055) ** 2.4
    )
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def test_loss_in_words_with_its_chance_level():
    drawing = loss_curve({"": ROUNDS}, chance=4.1589)
    assert "4.000 after round 1, 2.500 after round 3. The chance level is 4.159." in drawing.svg
    assert "chance 4.16" in drawing.svg
    assert "chance" not in loss_curve({"": ROUNDS}, chance=None).svg


def test_validation_has_only_the_rounds_that_measured_it():
    assert "0.250 after round 2, 0.250 after round 2" in validation_curve(ROUNDS).svg
    assert validation_curve(ROUNDS[:1]) is None
    assert loss_curve({"": []}, chance=1.0) is None


@pytest.mark.parametrize("num", [1, 2])
def test_ticks_of_few_rounds_are_whole_numbers(num):
    svg = loss_curve({"": ROUNDS[:num]}, chance=None).svg
    assert ">0.5<" not in svg.split("matplotlib.axis_2")[0]


def test_equal_arguments_give_equal_bytes():
    first, second = (loss_curve({"": ROUNDS}, chance=4.0) for _ in range(2))
    assert first.svg == second.svg
    assert first.png == second.png
    assert b"matplotlib" not in first.png


def test_few_labels_names_every_method(numbers):
    svg = few_labels_curve(numbers, "group").svg
    for name in ("student", *numbers["baselines"], "most frequent class"):
        assert f">{name}</text>" in svg
    row = numbers["student"]["few_labels"]["group"]["linear"]
    assert f"student: {row['1']['mean']:.3f} to {row['all']['mean']:.3f}" in svg
    assert few_labels_curve({"student": {}}, "") is None


def test_places_are_logarithms():
    places = label_places(["1", "10", "all"], 100.0)
    assert places == {"1": 0.0, "10": 1.0, "all": 2.0}
    assert label_places(["1", "10", "all"], None)["all"] > 1.0
    # All of a pool can be fewer than the largest number asked for; it still stands to the right of it.
    assert label_places(["1", "10", "all"], 5.0)["all"] > 1.0
    assert label_places(["all"], None) == {"all": 0.25}


def test_counts_by_class_and_client():
    table = [client(0, a=3, b=1), client(1, b=2)]
    assert shown_classes(table, ["b", "a", "c"]) == ["b", "a"]
    assert class_counts(table, ["b", "a"]).tolist() == [[1, 2], [3, 0]]


def test_rare_classes_share_one_area():
    table = [client(0, **{f"c{index}": index + 1 for index in range(12)}, **{UNLABELLED: 5})]
    classes = shown_classes(table, [f"c{index}" for index in range(12)])
    assert classes == [*(f"c{index}" for index in range(4, 12)), OTHER]
    assert class_counts(table, classes)[-1].tolist() == [1 + 2 + 3 + 4 + 5]
    assert colours(classes) == [*AREAS, REST]


def test_unlabelled_pairs_are_grey_and_on_top():
    table = [client(0, **{UNLABELLED: 5, "a": 1})]
    assert shown_classes(table, ["a"]) == ["a", UNLABELLED]
    assert colours(["a", UNLABELLED]) == [AREAS[0], REST]


@pytest.mark.parametrize("name", ["$x_1$", "_hidden", "a & b", "日本", "back`quote", "<b>bold</b>"])
def test_class_names_of_any_kind(name):
    drawing = partition_chart({"table": [client(0, **{name: 3, "other": 4})], "classes": [name, "other"]})
    assert f">{' ' * name.startswith('_')}{escape(name, quote=False)}</text>" in drawing.svg


@pytest.mark.parametrize("name", ["a long name of a class " * 9, "\u65e5\u672c" * 60])
def test_long_names_leave_room_for_the_chart(name):
    """matplotlib warns, which fails a test, where nothing is left of the axes."""
    classes = {f"{index} {name}": index + 1 for index in range(8)}
    drawing = partition_chart({"table": [client(0, **classes)], "classes": list(classes)})
    assert f">0 {name[:20]}" in drawing.svg
    assert name not in drawing.svg


def test_many_clients_make_no_large_file():
    table = [client(number, a=number % 7 + 1, b=3) for number in range(1000)]
    drawing = partition_chart({"table": table, "classes": ["a", "b"]})
    ticks = drawing.svg.split("matplotlib.axis_2")[0]
    assert [f">{number}</text>" in ticks for number in (0, 100, 900, 50)] == [True, True, True, False]
    assert "Pairs of 1000 clients by class: 4 to 10 pairs per client." in drawing.svg
    assert len(drawing.svg) < 80 * 2 * 1000
    assert partition_chart({}) is None


def test_lines_and_text_stand_out_from_the_paper():
    from edgecmd.report.drawing import INK, LINES, QUIET

    assert all(contrast(colour) >= 4.5 for colour in (*LINES, INK, QUIET))
