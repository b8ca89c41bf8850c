"""A federation from its settings: initial student, rounds, weights and run folder."""

import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from flwr.serverapp import Grid

from edgecmd.config.assemble import start_run
from edgecmd.config.provenance import Provenance, Runtime, require_runtime, write_provenance
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.run_lock import owned
from edgecmd.evaluation.evaluate import validate
from edgecmd.models.student_file import student_bytes
from edgecmd.models.students import ANY_FRONT, Student, student_row
from edgecmd.run import Run, require_same_clients
from edgecmd.training.averaging import Arrays, load_arrays, to_arrays
from server.asynchronous.buffer import Buffer
from server.checkpoint import newest_checkpoint
from server.cohort import Identity, Terms, ask_identities, terms_of, wait_for_nodes
from server.loop import Federation, RoundReport, run_rounds
from server.patience import Clock
from server.privacy.client_privacy import central_privacy
from server.privacy.one_shot import one_shot
from server.privacy.privacy_report import write_privacy
from server.privacy.sum_round import sum_rounds
from server.resident.rounds import ResidentRounds
from server.strategies import build_strategy

TOLD_EPSILON = "told-epsilon.json"
Report = Callable[[RoundReport], None]


def run_token(folder: Path) -> str:
    """Random name of the run in ``folder``, made once: 16 hexadecimal digits, the same after a resume.

    A client keeps its optimiser's state under it, so that another run never finds this one's state.
    """
    file = folder / "token"
    if not file.exists():
        write_artefact(folder, "token", secrets.token_hex(8), may_leave=False)
    return file.read_text(encoding="ascii").strip()


def federate(
    grid: Grid,
    run: Run,
    *,
    report: Report | None = None,
    runtime: Runtime = "in-process",
    may_grow: bool = True,
    clock: Clock | None = None,
    resident: Callable[[str], ResidentRounds] | None = None,
) -> Student:
    """Run or continue the federation of ``run`` and write ``student.safetensors``.

    Args:
        grid: Where the clients are.
        run: Task, student, recipe and folder.
        report: Called after each round.
        runtime: Whether the clients are nodes of Flower. Each is then asked once who it is, and the start
            waits for ``federation.num_clients`` of them up to the deadline.
        may_grow: Whether more nodes may connect, as they may not in Flower's own simulation.
        clock: What waiting goes by.
        resident: Makes, of the run's name, what lets clients train without messages; None: they get messages.

    Raises:
        ConfigError: A setting of the strategy is wrong; nothing is written then.
        FederationError: A round missed its quorum, no checkpoint can be read, another process owns the run
            folder, or the run in it was made in another runtime.
        PrivacyError: The settings do not earn a guarantee, or every budget was spent beforehand.
    """
    # Flower's progress lines are dropped; edgecmd prints its own.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    strategy = build_strategy(run.federation, proximal_mu=run.distill.proximal_mu)
    plan, folder = run.plan, run.folder
    with owned(folder):
        require_runtime(folder, runtime, described=run.described)
        start_run(run)
        if runtime == "in-process" and plan is not None and plan.unit != "client":
            require_same_clients(run)
        token = run_token(folder)
        student = run.new_student()
        summed = sum_rounds(run, student)
        terms = terms_of(run.federation, on_flower=runtime == "flower", may_grow=may_grow)
        clock = clock or Clock()
        identities = _meet(grid, run, terms=terms, clock=clock, runtime=runtime)
        staying = resident(token) if resident is not None else None

        def evaluate(round_index: int, arrays: Arrays) -> dict[str, float]:
            every = run.evaluate.every_rounds
            due = every and (round_index % every == 0 or round_index == run.federation.num_rounds)
            return validate(load_arrays(student, arrays), run.task) if due else {}

        federation = Federation(
            grid=grid,
            config=run.federation,
            terms=terms,
            strategy=strategy,
            token=token,
            seed=run.seed,
            folder=folder,
            evaluate=evaluate,
            report=report or (lambda _: None),
            identities=staying.identities if staying is not None else identities,
            expectations=told_to_devices(run, student) if runtime == "flower" else {},
            fixed=student.fixed,
            central=central_privacy(plan, run, token=token),
            private=plan is not None,
            clock=clock,
            buffer=_buffer(run, student),
            summed=summed,
            share_of_step=run.share_of_step,
            one_shot=one_shot(plan, student),
            resident=staying,
            wire=run.wire(student),
        )
        load_arrays(student, run_rounds(federation, to_arrays(student)))
        telling = [node for node, one in identities.items() if one.spent is not None]
        if telling:
            again, _ = ask_identities(grid, telling, deadline_s=terms.deadline_s)
            _note_spent(folder, identities | again)
        write_artefact(folder, "student.safetensors", student_bytes(student), may_leave=True)
        if plan is not None:
            write_privacy(plan, run)
        return student


def _buffer(run: Run, student: Student) -> Buffer | None:
    """What gathers the answers of asynchronous rounds; None for rounds that wait for their cohort."""
    size = run.federation.buffer_size
    if not size:
        return None
    mixed = frozenset(name for name, _ in student.named_buffers())
    return Buffer(size=size, max_staleness=run.federation.max_staleness, mixed=mixed)


def told_to_devices(run: Run, student: Student) -> dict[str, str]:
    """What a server tells devices about its own side, and what became of a student's batch normalisation."""
    told = run.task.told_to_devices()
    row = student_row(student.architecture)
    return told | ({"batch-norm": student.batch_norm} if row.front == ANY_FRONT else {})


def _meet(grid: Grid, run: Run, *, terms: Terms, clock: Clock, runtime: Runtime) -> dict[int, Identity]:
    """Wait for the nodes of Flower, ask who they are, and write down where the run's clients are.

    Raises:
        FederationError: Fewer than the quorum connected.
    """
    folder = run.folder
    if runtime == "in-process":
        num = run.federation.num_clients
        write_provenance(folder, Provenance(runtime=runtime, nodes=num, nodes_with_own_pairs=0))
        return {}
    state = newest_checkpoint(folder / "checkpoints")
    if state is not None and state.round_index >= run.federation.num_rounds:
        return {}
    nodes = wait_for_nodes(grid, terms, wanted=terms.num_nodes, clock=clock)
    # Who did not say it is asked again by the round that has to know, and named there.
    identities, _ = ask_identities(grid, nodes, deadline_s=terms.deadline_s)
    own = sum(one.own_pairs for one in identities.values())
    write_provenance(folder, Provenance(runtime=runtime, nodes=len(nodes), nodes_with_own_pairs=own))
    _note_spent(folder, identities)
    return identities


def _note_spent(folder: Path, identities: Mapping[int, Identity]) -> None:
    """Write down what nodes say that they have spent, where one does or did."""
    told = {
        str(node): {"epsilon": one.spent[0], "delta": one.spent[1]}
        for node, one in identities.items()
        if one.spent is not None
    }
    if told or (folder / TOLD_EPSILON).exists():
        write_artefact(folder, TOLD_EPSILON, told, may_leave=False)
