"""Model card and bill of materials: what they say of figures, privacy and audits, and what they never say."""

import json
from dataclasses import replace

import pytest

from export.documents.model_card import metrics_of, model_card
from export.documents.provenance import Provenance
from export.documents.sbom import bill_of_materials

EVALUATION = {
    "num_test": 100,
    "retrieval": {"recall@1": 0.4},
    "few_labels": {
        "group": {
            "num_test": 100,
            "linear": {
                "5": {"values": [0.4, 0.5, 0.6], "mean": 0.5, "low": 0.3, "high": 0.7, "num": 3},
                "all": {"values": [0.5], "mean": 0.5, "low": 0.5, "high": 0.5, "num": 1},
            },
        }
    },
}
PRIVACY = {
    "private": True,
    "epsilon": 7.5,
    "delta": 1e-5,
    "unit": "pair",
    "relation": "one pair added or removed",
    "against": "the server and everyone who sees the student",
    "statement": "Nobody learns much about one pair.",
    "not_covered": ["the number of pairs", "a hacked device"],
}
AUDIT = {"verdict": "not contradicted", "findings": [{"text": "The noise is as large as it should be."}]}


@pytest.fixture
def report(bundle):
    return json.loads((bundle("ws-50k") / "report.json").read_text())


@pytest.fixture
def provenance():
    return Provenance(
        name="demo",
        data={"set": "emoji", "kind": "real"},
        method={"student": "ws-50k"},
        evaluation=EVALUATION,
        privacy=PRIVACY,
        audit=AUDIT,
    )


def test_intervals_are_those_of_the_textbook():
    first, probe, everything = metrics_of(EVALUATION)
    # Wilson's interval of 40 of 100 at 95%, as in every table of it.
    assert (first.name, first.value) == ("retrieval R@1", 0.4)
    assert (round(first.low, 4), round(first.high, 4)) == (0.3094, 0.4980)
    assert (probe.name, probe.low, probe.high) == ("linear probe on group, 5 labels a class", 0.3, 0.7)
    assert (round(everything.low, 4), round(everything.high, 4)) == (0.4038, 0.5962)
    assert metrics_of({}) == []


def test_figures_that_rest_on_little_stand_alone():
    few = {"num_test": 4, "retrieval": {"recall@1": 1.0, "recall@5": 1.0}}
    (first,) = metrics_of(few)
    assert (first.name, first.low, first.high) == ("retrieval R@1", None, None)
    assert first.rests == "4 test examples"
    # Two draws, as files of older versions have them: ends that no share can have.
    wild = {"values": [0.1, 0.3], "mean": 0.209, "low": -0.493, "high": 0.911, "num": 2}
    table = {"num_test": 100, "few_labels": {"group": {"num_test": 100, "linear": {"1": wild}}}}
    assert metrics_of(table)[0].low is None
    wild |= {"num": 3}
    assert (metrics_of(table)[0].low, metrics_of(table)[0].high) == (0.0, 0.911)


def test_a_card_and_a_bill_of_little_say_what_it_rests_on(report, provenance):
    few = replace(provenance, evaluation={"num_test": 4, "retrieval": {"recall@1": 1.0}})
    assert "| retrieval R@1 | 1.000 | - | 4 test examples |" in model_card(report, few)
    assert "confidenceInterval" not in json.dumps(bill_of_materials(report, few))
    fault = {"fault": "all 100 test embeddings are the same", **EVALUATION}
    assert "has collapsed: all 100" in model_card(report, replace(provenance, evaluation=fault))


def test_card_states_data_figures_guarantee_and_audit(report, provenance):
    card = model_card(report, provenance)
    for text in (
        "# demo: an edgecmd student",
        "of any size",
        "house, tree, fish",
        "| `student.onnx` | fp32",
        "| `student.int8.onnx` | int8",
        "| set | emoji |",
        "| retrieval R@1 | 0.400 | 0.309 to 0.498 | 100 test examples |",
        "epsilon 7.5 and delta 1e-05",
        "one pair added or removed",
        "Against: the server and everyone who sees the student.",
        "- a hacked device",
        "Verdict: not contradicted.",
        "16 made-up pictures",
        "Weights: Apache-2.0.",
    ):
        assert text in card, text


def test_card_claims_nothing_that_was_not_recorded(report):
    card = model_card({**report, "calibration": ""}, Provenance())
    assert "Trained without differential privacy: nothing bounds" in card
    assert "The run was not evaluated; nothing is claimed." in card
    assert "Not audited." in card
    assert "None was needed" in card
    assert "epsilon 7.5" not in card


def test_a_run_that_is_not_private_says_so(report, provenance):
    told = {
        **PRIVACY,
        "private": False,
        "epsilon": None,
        "warning": "NOT PRIVATE: the noise was from a seed.",
    }
    card = model_card(report, Provenance(privacy=told))
    assert "NOT PRIVATE: the noise was from a seed." in card


def test_bill_of_materials_is_valid_cyclonedx(report, provenance):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for one in (provenance, Provenance()):
        bill = bill_of_materials(report, one)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert bill_of_materials(report, provenance)["metadata"]["component"]["type"] == "machine-learning-model"


def test_bill_has_the_hashes_and_figures_and_no_time(report, provenance):
    bill = bill_of_materials(report, provenance)
    hashes = {one["name"]: one["hashes"][0]["content"] for one in bill["components"]}
    assert hashes == {
        name: report["files"][name]["sha256"]
        for name in ("student.onnx", "student.w8.onnx", "student.int8.onnx")
    }
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0] == {
        "type": "retrieval R@1",
        "value": "0.4000",
        "confidenceInterval": {"lowerBound": "0.3094", "upperBound": "0.4980"},
    }
    assert "timestamp" not in json.dumps(bill)
    assert bill["serialNumber"] == bill_of_materials(report, Provenance())["serialNumber"]
