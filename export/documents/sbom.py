"""ml-bom.cdx.json: the bundle as a CycloneDX 1.6 machine-learning bill of materials.

Written by hand, because the Python library of CycloneDX has no model cards; a test holds it against the
schema.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from edgecmd.models.students import STUDENTS
from edgecmd.report.privacy import claim
from export.documents.model_card import LIMITS, Metric, metrics_of, own_costs
from export.documents.provenance import Provenance
from export.graph.front_graph import KINDS

SPEC_VERSION = "1.6"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:edgecmd:ml-bom")


def bill_of_materials(report: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """Content of the bill.

    Args:
        report: As in ``report.json``.
        provenance: Where the student comes from.

    Guarantees:
        Equal bundles have equal bills: the serial number follows from the models, and there is no time.
    """
    models = [_model(name, one, report) for name, one in report["profiles"].items()]
    models += [
        _model(one["profile"], {"file": file, "summary": one["title"]}, report)
        for file, one in report.get("formats", {}).items()
    ]
    main = {**models[0], "bom-ref": "student", "name": provenance.name}
    main["modelCard"] = _model_card(report, provenance)
    digests = "".join(report["files"][one["file"]]["sha256"] for one in report["profiles"].values())
    versions = {name: text for name, text in report["versions"].items() if text != "not installed"}
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digests)}",
        "version": 1,
        "metadata": {
            "component": main,
            "tools": {
                "components": [
                    {"type": "library", "name": name, "version": text} for name, text in versions.items()
                ]
            },
        },
        "components": models,
        "dependencies": [{"ref": "student", "dependsOn": [one["bom-ref"] for one in models]}],
    }


def _model(profile: str, one: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    licence = report["license"]
    return {
        "type": "machine-learning-model",
        "bom-ref": one["file"],
        "name": one["file"],
        "description": f"{profile}: {one['summary']}",
        "hashes": [{"alg": "SHA-256", "content": report["files"][one["file"]]["sha256"]}],
        "licenses": [{"license": {"name": licence}}],
    }


def _model_card(report: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    return {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "classification" if report["classes"] else "embedding",
            "architectureFamily": "convolutional neural network"
            if report["architecture"] in STUDENTS
            else "its maker's own",
            "modelArchitecture": report["architecture"],
            "datasets": _datasets(provenance),
            "inputs": [{"format": f"{report['front_end']}, see edgecmd.preprocess in the file"}],
            "outputs": [
                {"format": name}
                for name in ("embedding", "mask" if KINDS[report["front_end"]].dense else "scores")[
                    : 1 + bool(report["classes"])
                ]
            ],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": one.name, "value": f"{one.value:.4f}", **_interval(one)}
                for one in metrics_of(provenance.evaluation)
            ]
        },
        "considerations": {
            "technicalLimitations": list(LIMITS),
            "ethicalConsiderations": [
                {"name": "privacy of the training pairs", "mitigationStrategy": _privacy(provenance)},
                *({"name": "other examples", "mitigationStrategy": text} for text in own_costs(report)),
            ],
        },
    }


def _interval(one: Metric) -> dict[str, Any]:
    """The interval of a figure as CycloneDX has it; nothing where none can be told."""
    if one.low is None or one.high is None:
        return {}
    return {"confidenceInterval": {"lowerBound": f"{one.low:.4f}", "upperBound": f"{one.high:.4f}"}}


def _datasets(provenance: Provenance) -> list[dict[str, Any]]:
    """What was trained on, in one entry that holds all that is known of the data."""
    if not provenance.data:
        return []
    name = "pairs of the devices' own" if provenance.num_own else provenance.data.get("set", "not recorded")
    text = "; ".join(f"{what}: {value}" for what, value in provenance.data.items())
    return [{"type": "dataset", "name": name, "description": text}]


def _privacy(provenance: Provenance) -> str:
    if provenance.privacy:
        return claim(dict(provenance.privacy))
    missing = "The statement of privacy is missing: nothing is claimed."
    return missing if provenance.private else "No differential privacy."
