"""Level L0: what can be known of a target without training anything."""

from collections.abc import Callable
from dataclasses import replace

from edgecmd.audits.audited_student import Subject, subjects
from edgecmd.audits.finding import INDICATOR, Finding
from edgecmd.audits.static.anchors import anchors_findings
from edgecmd.audits.static.ledger_consistency import books_findings
from edgecmd.audits.static.purity_findings import batch_loss_purity, student_purity, unit_loss_purity
from edgecmd.audits.static.sensitivity import (
    Effort,
    batch_loss_of,
    batch_question,
    bound_finding,
    private_question,
    search,
)
from edgecmd.audits.static.views import views_finding
from edgecmd.audits.target import Target, cut_chunks
from edgecmd.core.progress import Tick, ticker
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.moments import summed_module
from edgecmd.privacy.step.units import unit_loss

# A batch of this size shows what the loss of a whole batch does; each try costs a forward pass of it twice.
BATCH_EFFORT = Effort(num_tries=15, num_pairs=64, climb_length=3)


def check_target(target: Target, effort: Effort | None = None) -> list[Finding]:
    """All findings of level L0, in the order of what costs least.

    Where pairs are protected, purity, sensitivity, books and anchors are held against the claim. Where
    they are not (no privacy, or whole clients), purity and the sensitivity of the batch are told for
    information; the books and the claim of a client-level run are still held against each other.

    Args:
        target: What is audited.
        effort: Of each sensitivity search; None for the usual one.

    Raises:
        DataError: A file or the data set is missing or damaged.
        PrivacyError: A ledger is damaged, or all of them are gone.
    """
    effort = effort or Effort()
    findings = books_findings(target)
    if needs_anchors(target):
        findings += anchors_findings(target)
    found = subjects(target)
    if target.plan is not None and target.plan.sum_plan is not None:
        findings.append(bound_finding(target, target.plan, summed_module(target.plan, found[-1].student)))
    with ticker("audit check") as tick:
        if target.plan is not None and target.plan.unit == "pair":
            return findings + _private_findings(target, target.plan, found, effort, tick)
        return findings + _open_findings(target, found, effort, tick)


def needs_anchors(target: Target) -> bool:
    """Whether the loss that is protected looks at anchors."""
    plan = target.plan
    return plan is not None and plan.row.at_client and target.run.loss.needs_anchors


def _private_findings(
    target: Target, plan: PrivacyPlan, found: list[Subject], effort: Effort, tick: Tick
) -> list[Finding]:
    findings = [student_purity(subject, claims=True) for subject in found]
    subject = found[0]
    loss = unit_loss(target.run.loss, subject.anchors)
    findings.append(unit_loss_purity(loss, embedding_dim=subject.embedding_dim))
    findings.append(views_finding(subject, plan, target.run))
    for subject, part in _parts(found, effort, tick):
        # What goes wrong between chunks shows only where one pair more begins another.
        asked = cut_chunks(plan, effort.num_pairs - 1) if subject is found[-1] else plan
        question = private_question(subject, asked, target.run, num_pairs=effort.num_pairs)
        findings.append(search(question, effort, tick=part))
    return findings


def _open_findings(target: Target, found: list[Subject], effort: Effort, tick: Tick) -> list[Finding]:
    """For information: what clipping for each pair would not have bounded."""
    effort = replace(BATCH_EFFORT, num_tries=min(BATCH_EFFORT.num_tries, effort.num_tries))
    findings = [student_purity(subject, claims=False) for subject in found]
    loss, dim = batch_loss_of(target.run, found[0]), found[0].embedding_dim
    findings.append(batch_loss_purity(loss, embedding_dim=dim, claims=False))
    for subject, part in _parts(found, effort, tick):
        question = batch_question(
            subject,
            batch_loss_of(target.run, subject),
            clip=target.run.privacy.clip,
            claimed=None,
            num_pairs=effort.num_pairs,
            mode="hooks",
        )
        findings.append(_told(search(question, effort, tick=part)))
    return findings


def _told(finding: Finding) -> Finding:
    text = (
        "No guarantee for single pairs was claimed. If this loss were clipped for each pair, one pair could"
        f" still move a step's sum by at least {finding.measured or 0.0:.4g} C."
    )
    return replace(finding, verdict=INDICATOR, text=text)


def _parts(found: list[Subject], effort: Effort, tick: Tick) -> list[tuple[Subject, Tick]]:
    """Each subject with a tick that counts the tries of all."""
    total = effort.num_tries * len(found)
    return [(subject, _shifted(tick, index * effort.num_tries, total)) for index, subject in enumerate(found)]


def _shifted(tick: Tick, before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: tick(before + done, total)
