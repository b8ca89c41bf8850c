"""The privacy part of a plan, as it is shown before a run."""

from collections.abc import Sequence

from edgecmd.config.schema import RunConfig
from edgecmd.core.text import counted

MISFIT = 2.0


def privacy_rows(config: RunConfig, sizes: Sequence[int]) -> list[list[str]]:
    """Rows of the plan's table.

    Args:
        config: Settings of the run.
        sizes: Pairs of each simulated client.
    """
    from edgecmd.data.problem import anchors_fingerprint, run_of
    from edgecmd.privacy.plan import SAMPLERS
    from edgecmd.privacy.statement import WARNINGS

    plan = run_of(config).plan
    if plan is None:
        return [["privacy", "no differential privacy"]]
    total = plan.epsilon_after(plan.num_rounds)
    kind = anchors_fingerprint(config)
    promise = (
        f"epsilon {total:.3g} of {plan.epsilon:g}, delta {plan.delta:g}, after"
        f" {counted(plan.num_rounds, 'round')}"
    )
    if not plan.private:
        promise = WARNINGS["deterministic" if plan.deterministic else "projected"]
    rows = [
        ["privacy", promise],
        ["unit, relation", f"{plan.unit}; {plan.relation}"],
        ["mechanism", f"{plan.mechanism}: {plan.statement}"],
        ["sampler", f"{SAMPLERS[plan.sampling]}; rate {plan.sampling_rate:g}"],
        ["clip, sensitivity", f"{plan.clip:g}, {plan.sensitivity:g}"],
        [
            "noise",
            f"multiplier {plan.noise_multiplier:.4g}; standard deviation"
            f" {plan.noise_std / plan.normaliser:.3g} on each coordinate of a mean gradient or update",
        ],
        ["accountant", f"{plan.accountant}; {counted(plan.round_spending().count, 'release')} a round"],
        ["anchors", f"{kind['num']} {kind['kind']} ({str(kind['sha256'])[:12]})"],
    ]
    if plan.unit == "pair":
        rows.append(["pairs a step", _expected(plan.sampling_rate, plan.normaliser, sizes)])
        if plan.delta * max(sizes) >= 1:
            rows.append(["warning", f"delta {plan.delta:g} is not below 1 / {counted(max(sizes), 'pair')}"])
    return rows


def _expected(rate: float, normaliser: float, sizes: Sequence[int]) -> str:
    low, high = rate * min(sizes), rate * max(sizes)
    text = f"{low:.0f} to {high:.0f} expected, divided by {normaliser:g}"
    if high > MISFIT * normaliser or low * MISFIT < normaliser:
        text += f"; set distill.batch_size to about {rate * sum(sizes) / len(sizes):.0f}"
    return text
