"""The runs of ``edgecmd robustness``: trained, assessed, each kept in a file of its own.

Attacks and drop-outs are planted under the project's own loop, screening and strategies; everything is drawn
from the seed.
"""

from collections import Counter
from functools import partial

from edgecmd.config.assemble import WORKER, Assembly, run_folder
from edgecmd.core import jobs
from edgecmd.core.errors import FederationError
from edgecmd.core.events import read_events
from edgecmd.core.files import write_bytes_atomically, write_json, write_text_atomically
from edgecmd.core.jobs import Tell, finish
from edgecmd.core.seeding import repeats_of
from edgecmd.experiments.robustness.attack_tables import SHOWN, SUCCESS, markdown, tables_of
from edgecmd.experiments.robustness.cases import Asked, Job, Table


def run_job(job: Job, assembly: Assembly = WORKER) -> Table:
    """One case with one seed, in whatever process; a finished one is read from its file.

    Raises:
        ConfigError: The file was made with other settings.
    """
    return finish(job, partial(measure, job, assembly))


def measure(job: Job, assembly: Assembly) -> Table:
    """Train under the attack and assess.

    Returns:
        ``metrics`` (empty where the federation could not go on), ``ended`` (why, or empty), ``dropped``:
        replies that screening dropped of ``attackers`` and of ``others``, by reason.
    """
    from clients.byzantine import Backdoor, attackers, read_attack
    from edgecmd.evaluation.evaluate import assess, embedder, headline
    from server.faults import Faults
    from server.simulate import FIRST_NODE, simulate

    case, run = job.case, assembly.run(job.config)
    others = attackers(run, read_attack(case.attack), num=case.attackers) if case.attackers else {}
    faults = Faults(seed=run.seed, unavailable=case.drop_out / 100) if case.drop_out else None
    ended, metrics = "", {}
    try:
        student = simulate(run, others=others, faults=faults)
    except FederationError as error:
        # A folder that another process has, or a broken checkpoint, is no outcome of an attack.
        if not str(error).startswith("Round "):
            raise
        ended = str(error)
    else:
        metrics = headline(assess(embedder(student, run.task), run, student=student))
        metrics |= {SUCCESS: Backdoor.of(run).success(student, run.task)}
    dropped: dict[str, Counter[str]] = {"attackers": Counter(), "others": Counter()}
    for event in read_events(run.folder / "events.jsonl", kind="round"):
        for one in event["rejected"]:
            dropped["attackers" if one["node"] - FIRST_NODE in others else "others"][one["reason"]] += 1
    return {"metrics": metrics, "ended": ended, "dropped": {name: dict(one) for name, one in dropped.items()}}


def measure_all(asked: Asked, assembly: Assembly, *, tell: Tell) -> Table:
    """Every case with every seed, and the files of the whole: ``robustness.json``, ``.md`` and ``.png``.

    Seeds come one after the other, so that a run that is stopped has whole seeds.

    Args:
        asked: What is to be measured.
        assembly: Makes runs where this process does the work alone.
        tell: Takes lines for a person.

    Raises:
        ConfigError: A file was made with other settings.
        KeyboardInterrupt: It was stopped; what was finished is kept.
    """
    from edgecmd.experiments.robustness.attack_chart import robustness_png

    seeds = repeats_of(asked.config.seed, asked.num_seeds)
    work = [asked.job(case, seed) for seed in seeds for case in asked.cases]
    do = partial(run_job, assembly=assembly) if asked.num_jobs == 1 else run_job
    done: list[Job] = []
    told_of = (*SHOWN, SUCCESS)

    def told(job: Job, result: Table) -> None:
        done.append(job)
        line = "  ".join(f"{name} {one:.3f}" for name, one in result["metrics"].items() if name in told_of)
        tell(f"{len(done)}/{len(work)}  seed {job.config.seed} {job.case.name}: {line or result['ended']}")

    found = jobs.run_jobs(work, do, num_processes=asked.num_jobs, what="runs", done=told)
    folder, table = run_folder(asked.config), tables_of(asked, work, found)
    write_json(folder / "robustness.json", table)
    write_text_atomically(folder / "robustness.md", markdown(table))
    write_bytes_atomically(folder / "robustness.png", robustness_png(table))
    return table
