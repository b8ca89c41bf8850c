"""What ``edgecmd theory`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgecmd.cli.common import print_table, say


def show_theory(table: Mapping[str, Any]) -> None:
    """Print distance and error by gap, the correlations, the exponents and the terms of the bound."""
    rows = [
        [
            row["gap"],
            f"{row['level']:.2f}",
            f"{row['distance']:.3f}",
            f"{row['bound']:.3f}",
            f"{row['distance_batch']:.3f}",
            f"{row['error']:.3f}",
        ]
        for row in table["by_gap"]
    ]
    what = "to public anchors" if table["form"] == "anchors" else "within the batch"
    print_table(
        f"Distance (relations {what}) and target error",
        ["gap", "level", "distance", "bound by CMD", "within the batch", "error"],
        rows,
    )
    within = table["correlation_batch"]
    rows = [[name, *_rho(one), *_rho(within[name])] for name, one in table["correlation"].items()]
    columns = ["gap", "rho", "95% interval", "rho within the batch", "95% interval"]
    print_table("Spearman's rho of distance and error", columns, rows)
    show_exponents(table)
    rows = [
        [t["name"], "-" if t["value"] is None else f"{t['value']:.3f}", t["text"]] for t in table["terms"]
    ]
    print_table("Terms of the bound (docs/theory.md)", ["term", "estimate", "meaning"], rows)


def _rho(one: Mapping[str, float] | None) -> list[str]:
    if one is None:
        return ["-", "one of the two does not change"]
    return [f"{one['value']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}"]


def show_exponents(table: Mapping[str, Any]) -> None:
    """Print the fitted exponents beside the bound's."""
    rows = []
    for name, fit in (("pairs M", table["pairs_fit"]), ("labels m", table["labels_fit"])):
        if fit is None:
            rows.append([name, "-", "fewer than four sizes", "-0.50", "-"])
            continue
        one = fit["exponent"]
        span = f"{-one['high']:.2f} to {-one['low']:.2f}"
        found = f"{-one['value']:.2f}" if fit["determined"] else "not determined"
        rows.append([name, found, span, "-0.50", f"{fit['floor']:.3f}"])
    print_table(
        "Error = floor + scale * size^exponent",
        ["size", "exponent", "95% interval", "bound's rate", "floor"],
        rows,
    )


NAMES = ("cosine", "apart", "residual", "rotated", "error_clients", "error_average", "recall@1")


def show_rotation(table: Mapping[str, Any]) -> None:
    """Print the first and the last round of each method: mean over the seeds, and half the 95% interval."""
    rows = []
    for method, seeds in table["methods"].items():
        for index in (0, -1) if len(seeds[0]) > 1 else (0,):
            lines = [seed[index] for seed in seeds]
            cells = [
                _over_seeds([line[name] for line in lines], name) if name in lines[0] else "-"
                for name in NAMES
            ]
            rows.append([method, str(int(lines[0]["round"])), *cells])
    print_table(
        f"Clients before they are averaged: {table['num_clients']} clients, {table['partition']},"
        f" {table['local_steps']} local steps, {table['num_seeds']} seeds",
        ["method", "round", *NAMES],
        rows,
    )
    say(
        "Intervals are of Student's t over seeds, cut to what is possible; none with fewer than three."
        " apart = 2 - 2 cosine; residual: after the best rotation; rotated: share of apart that it takes"
        " away."
    )


BOUNDS = {"cosine": (-1.0, 1.0), "apart": (0.0, 4.0), "residual": (0.0, 2.0)}


def _over_seeds(values: Sequence[float], name: str) -> str:
    from edgecmd.core.statistics import SHARE, interval_text, mean_interval

    found = mean_interval(values, bounds=BOUNDS.get(name, SHARE))
    return interval_text({"mean": found.mean, "low": found.low, "high": found.high})
