"""``edgecmd audit check``: level L0, what can be known without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.audit import audit_app, fail_if_contradicted, finish, show, target_of
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread, read_settings
from edgecmd.core.errors import ConfigError
from edgecmd.experiments.bench.ticker import ticker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgecmd.audits.audited_student import Subject
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.static.custom_code import OwnCode
    from edgecmd.audits.static.sensitivity import Effort
    from edgecmd.audits.target import Target
    from edgecmd.run import Run

OwnTarget = Annotated[
    Path | None, typer.Argument(help="Run folder, student or exported file; none with --loss or --student.")
]
OWN_DIM = 128


def audit(target: "Target") -> "list[Finding]":
    """Level L0 with its usual effort: 96 tries for each of the trained and the first weights."""
    from edgecmd.audits.static.checks import check_target
    from edgecmd.audits.static.sensitivity import Effort

    with ticker("audit check") as tick:
        return check_target(target, Effort(), tick=tick)


@audit_app.command("check")
def check(
    target: OwnTarget = None,
    *,
    tries: Annotated[
        int | None, typer.Option("--tries", min=1, help="Neighbours to try; default 96, own batch loss 5.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=3, help="Pairs of a set; default 8, own batch loss 256.")
    ] = None,
    loss: Annotated[str, typer.Option("--loss", help="Own loss: module:function or file.py:function.")] = "",
    unit_loss: Annotated[
        bool, typer.Option("--unit-loss/--batch-loss", help="The own loss is of one pair, or of a batch.")
    ] = False,
    student: Annotated[str, typer.Option("--student", help="Own student: module:factory.")] = "",
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of an own student.")] = 1,
    engine: Annotated[
        str,
        typer.Option("--engine", help="Of an own loss: opacus, opacus-ghost; with --unit-loss vmap, loop."),
    ] = "",
    clip: Annotated[
        float | None,
        typer.Option("--clip", min=1e-6, max=1e6, help="C of an own loss; default privacy.clip."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Handed to the own loss as a keyword.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L0: purity probes, sensitivity search, the books and the anchors; nothing is trained.

    With --loss or --student your own Python code is checked, with or without a run. A loss is
    loss(student (B, D), teacher (B, D), anchors (K, D)) -> (B,), run as Opacus would clip it; with
    --unit-loss it gets one pair at a time and returns a scalar. A student is made by a function
    without arguments: images (B, C, H, W) -> (B, D). Exit code 3 where one pair moves the sum by more
    than C.
    """
    one_thread()
    from edgecmd.config.assemble import Assembly

    if not loss and not student:
        if target is None:
            raise ConfigError(
                "edgecmd audit check needs something to check: a run folder, a student's file or an exported"
                " file, or own code with --loss module:function or --student module:factory."
            )
        _refuse_own_options(unit_loss=unit_loss, engine=engine, clip=clip, temperature=temperature)
        found = target_of(target, config, settings)
        finish(found, _check_target(found, tries, pairs), as_json=as_json)
        return
    known = target_of(target, config, settings) if target is not None else None
    run = known.run if known is not None else Assembly().run(read_settings(config, settings))
    subject = _subject(known, run, student=student, channels=channels)
    code = _own_code(run, loss, unit_loss=unit_loss, engine=engine, clip=clip, temperature=temperature)
    findings = _check_own(code, subject, tries, pairs)
    show(findings, as_json=as_json)
    fail_if_contradicted(findings)


def _refuse_own_options(**options: object) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)} belong to own code, and neither --loss nor --student is given; a run's own"
            " loss, engine and clip are in its config.toml."
        )


def _effort(usual: "Effort", tries: int | None, pairs: int | None) -> "Effort":
    from dataclasses import replace

    return replace(usual, num_tries=tries or usual.num_tries, num_pairs=pairs or usual.num_pairs)


def _check_target(found: "Target", tries: int | None, pairs: int | None) -> "Sequence[Finding]":
    from edgecmd.audits.static.checks import check_target
    from edgecmd.audits.static.sensitivity import Effort

    with ticker("audit check") as tick:
        return check_target(found, _effort(Effort(), tries, pairs), tick=tick)


def _subject(known: "Target | None", run: "Run", *, student: str, channels: int) -> "Subject":
    """The own student, else the run's, else a new one by the settings, without a data set."""
    from dataclasses import replace

    from edgecmd.audits.audited_student import subjects
    from edgecmd.audits.static.custom_code import own_subject
    from edgecmd.core.own_code import load_factory

    if known is not None and not student:
        return subjects(known)[0]
    factory = load_factory("--student", student, files=True) if student else None
    side = int(run.described.flat["data.image_size"])
    made = own_subject(factory, run, side=side, in_channels=channels, embedding_dim=OWN_DIM)
    if known is None:
        return made
    anchors = subjects(known)[0].anchors
    if anchors.shape[1] != made.embedding_dim:
        raise ConfigError(
            f"--student={student!r} gives embeddings of dimension {made.embedding_dim}, the run's teacher"
            f" {anchors.shape[1]}. Make it give the teacher's, or leave the run out."
        )
    return replace(made, anchors=anchors)


def _own_code(
    run: "Run",
    loss: str,
    *,
    unit_loss: bool,
    engine: str,
    clip: float | None,
    temperature: float | None,
) -> "OwnCode":
    from edgecmd.audits.static.custom_code import OwnCode, anchored_unit_loss, own_loss

    per_unit = unit_loss or not loss
    return OwnCode(
        name=loss or "cmc-anchored",
        loss=own_loss(loss, temperature=temperature, per_unit=per_unit)
        if loss
        else anchored_unit_loss(run.distill.temperature),
        per_unit=per_unit,
        engine=engine or ("vmap" if per_unit else "opacus"),
        clip=run.privacy.clip if clip is None else clip,
        temperature=temperature if loss else None,
        seed=run.seed,
    )


def _check_own(
    code: "OwnCode", subject: "Subject", tries: int | None, pairs: int | None
) -> "Sequence[Finding]":
    from edgecmd.audits.static.custom_code import BATCH_EFFORT, UNIT_EFFORT, check_own_code

    usual = UNIT_EFFORT if code.per_unit else BATCH_EFFORT
    with ticker("audit check") as tick:
        return check_own_code(code, subject, _effort(usual, tries, pairs), tick=tick)
