"""``edgecmd robustness``: strategies under Byzantine clients, and a federation that clients drop out of.

Each run is a piece of work with a file of its own. Attacks and drop-outs are planted under the project's own
loop, screening and strategies; everything is drawn from the seed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgecmd.config.assemble import WORKER, Assembly, run_folder
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core import jobs
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.core.events import read_events
from edgecmd.core.files import write_bytes_atomically, write_json, write_text_atomically
from edgecmd.core.jobs import Tell, finish
from edgecmd.core.statistics import interval_text
from edgecmd.experiments.compare.markdown import table_lines, title_of
from edgecmd.experiments.compare.summary import summarise
from edgecmd.report.studies import FIRST_CHOICE

Table = dict[str, Any]
SUCCESS = "attack_success"
HEADS = {
    "strategy": "strategy",
    "attackers": "attackers",
    "drop_out": "percent that drop out",
    "screened": "screened out",
    "ended": "ended early",
}
SHOWN = ("recall@1", "class_recall@1", *FIRST_CHOICE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What happens to the federations of a line of the table.

    Attributes:
        strategy: ``federation.strategy``.
        attack: As `clients.byzantine.read_attack` takes it; empty for none.
        attackers: Number of clients that attack.
        drop_out: Percent of the clients asked in a round that do not answer.
    """

    strategy: str
    attack: str = ""
    attackers: int = 0
    drop_out: int = 0

    @property
    def name(self) -> str:
        """Name of its folders."""
        attacked = f"-{self.attack.replace(':', '-')}-{self.attackers}" if self.attackers else ""
        return self.strategy + attacked + (f"-drop-out-{self.drop_out}" if self.drop_out else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One case with one seed.

    Attributes:
        case: The case.
        config: Settings, with the seed and the strategy.
    """

    case: Case
    config: RunConfig

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        return Path(self.config.out) / f"{self.config.name}.json"

    @property
    def made_of(self) -> Table:
        """What the result depends on; workers change none."""
        settings = {
            name: one for name, one in flatten(self.config).items() if name != "federation.num_workers"
        }
        return {"settings": settings, "attack": self.case.attack, "attackers": self.case.attackers}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be measured.

    Attributes:
        config: Settings but for seed and strategy.
        strategies: Names of strategies, each under every attack.
        attacks: Attacks, checked.
        attackers: Numbers of clients that attack.
        drop_outs: Percents of clients that do not answer, under the strategy of ``config``.
        num_seeds: Seeds from 0.
        num_jobs: Processes at a time.
    """

    config: RunConfig
    strategies: tuple[str, ...]
    attacks: tuple[str, ...]
    attackers: tuple[int, ...]
    drop_outs: tuple[int, ...]
    num_seeds: int
    num_jobs: int = 1

    @property
    def cases(self) -> list[Case]:
        """Every case once; without attack and drop-outs first."""
        plain = [Case(strategy=one) for one in self.strategies] if self.attacks else []
        attacked = [
            Case(strategy=one, attack=attack, attackers=num)
            for attack in self.attacks
            for num in self.attackers
            for one in self.strategies
        ]
        own = self.config.federation.strategy
        dropped = [Case(strategy=own, drop_out=one) for one in (0, *self.drop_outs)] if self.drop_outs else []
        return list(dict.fromkeys([*plain, *attacked, *dropped]))

    def job(self, case: Case, seed: int) -> Job:
        """The job of a case and a seed."""
        federation = replace(self.config.federation, strategy=case.strategy)
        out = run_folder(self.config) / f"seed-{seed}"
        config = replace(self.config, federation=federation, seed=seed, out=str(out), name=case.name)
        return Job(case=case, config=config)


def read_request(
    config: RunConfig,
    *,
    strategies: str,
    attacks: str,
    shares: str,
    drop_outs: str,
    num_seeds: int,
    num_jobs: int,
) -> Asked:
    """What the command's options ask for; nothing is trained or written yet.

    Args:
        config: Settings.
        strategies: Names, comma-separated.
        attacks: Attacks with or without a strength, comma-separated; empty for none.
        shares: Percents of the clients that attack.
        drop_outs: Percents of the clients asked that do not answer; empty for none.
        num_seeds: Seeds from 0.
        num_jobs: Processes at a time.

    Raises:
        ConfigError: A name, a strength or a percentage is wrong, a strategy lacks a setting, nothing was
            asked for, or a mechanism of privacy is set.
    """
    from clients.byzantine import read_attack
    from server.strategies import build_strategy

    if config.privacy.mechanism != "none":
        raise ConfigError(
            f"privacy.mechanism={config.privacy.mechanism!r}: robust strategies need to see each reply, which"
            " privacy does not show them. Set privacy.mechanism=none."
        )
    named = tuple(dict.fromkeys(read_attack(one).name for one in _words(attacks)))
    dropped = _percents("--drop-outs", drop_outs)
    if not named and not dropped:
        raise ConfigError(
            "--attacks and --drop-outs are both empty: nothing is to be measured. Set one of them."
        )
    names = tuple(dict.fromkeys(_words(strategies)))
    if named and not names:
        raise ConfigError("--strategies is empty. Name at least one, such as fedavg,fedmedian.")
    for name in (*names, config.federation.strategy):
        federation = replace(config.federation, strategy=name)
        build_strategy(federation, proximal_mu=config.distill.proximal_mu)
    return Asked(
        config=config,
        strategies=names,
        attacks=named,
        attackers=_attackers(shares, num_clients=config.federation.num_clients) if named else (),
        drop_outs=dropped,
        num_seeds=num_seeds,
        num_jobs=num_jobs,
    )


def _words(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _percents(option: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    wrong = [one for one in words if not (one.isascii() and one.isdigit() and 0 < int(one[:9]) < 100)]
    if wrong:
        raise ConfigError(f"{option} has {wrong[0]!r}; write whole percentages from 1 to 99, as in 10,20,30.")
    return tuple(sorted({int(one) for one in words}))


def _attackers(shares: str, *, num_clients: int) -> tuple[int, ...]:
    """Numbers of clients that attack."""
    percents = _percents("--shares", shares)
    nums = [round(one * num_clients / 100) for one in percents]
    for percent, num in zip(percents, nums, strict=True):
        if not 0 < num < num_clients:
            raise ConfigError(
                f"--shares has {percent}: of federation.num_clients={num_clients} that is"
                f" {percent * num_clients / 100:g}, and 1 to {num_clients - 1} clients can attack. Change"
                " one of the two."
            )
    if not nums:
        raise ConfigError("--shares is empty. Write percentages of the clients, as in 10,20,30.")
    return tuple(dict.fromkeys(nums))


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
    from edgecmd.report.studies import robustness_png

    work = [asked.job(case, seed) for seed in range(asked.num_seeds) for case in asked.cases]
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


def tables_of(asked: Asked, work: Sequence[Job], found: Sequence[Table]) -> Table:
    """What the figures of all cases come to.

    Args:
        asked: What was measured.
        work: The jobs.
        found: Their results, in the same order.
    """
    from clients.byzantine import read_attack

    cases = {case.name: case for case in asked.cases}
    lines: dict[str, list[Table]] = {name: [] for name in cases}
    for job, one in zip(work, found, strict=True):
        lines[job.case.name].append(one)
    summary = summarise({name: [one["metrics"] for one in own] for name, own in lines.items()})
    rows = [
        {
            **asdict(case),
            "backdoor": bool(case.attack) and read_attack(case.attack).backdoor,
            "ended": sum(bool(one["ended"]) for one in lines[name]),
            "screened": sum(sum(one["dropped"]["attackers"].values()) for one in lines[name]),
            "metrics": summary[name],
        }
        for name, case in cases.items()
    ]
    have = [name for name in SHOWN if any(name in line for line in summary.values())]
    few = [name for name in have if name in FIRST_CHOICE][:1]
    return {
        "num_clients": asked.config.federation.num_clients,
        "num_seeds": asked.num_seeds,
        "settings": dict(flatten(asked.config)),
        "shown": [name for name in have if name not in FIRST_CHOICE] + few,
        "rows": rows,
    }


def markdown(table: Table) -> str:
    """The tables of `shown_tables` as Markdown."""
    parts = [
        [f"## {title}", "", *table_lines(columns, rows), ""] for title, columns, rows in shown_tables(table)
    ]
    return "\n".join(line for part in parts for line in part)


def shown_tables(table: Table) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table for people: one for each attack, one for drop-outs.

    Args:
        table: As `tables_of` gives it.
    """
    rows, shown, found = table["rows"], table["shown"], []
    order = list(dict.fromkeys(row["strategy"] for row in rows))
    for attack in dict.fromkeys(row["attack"] for row in rows if row["attack"]):
        own = [row for row in rows if row["attack"] == attack or not (row["attack"] or row["drop_out"])]
        own.sort(key=lambda row: (order.index(row["strategy"]), row["attackers"]))
        metrics = [*shown, SUCCESS] if own[-1]["backdoor"] else shown
        found.append((attack, *_cells(own, ("strategy", "attackers"), metrics, ("screened", "ended"))))
    for name in {row["strategy"]: None for row in rows if row["drop_out"]}:
        own = [row for row in rows if row["strategy"] == name and not row["attack"]]
        found.append((f"Drop-outs, {name}", *_cells(own, ("drop_out",), shown, ("ended",))))
    return found


def _cells(
    rows: Sequence[Table], first: Sequence[str], metrics: Sequence[str], last: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: fields of a case, means with their intervals, counts."""
    columns = [*(HEADS[name] for name in first), *map(title_of, metrics), *(HEADS[name] for name in last)]
    cells = []
    for row in rows:
        told = [interval_text(row["metrics"][one]) if one in row["metrics"] else "-" for one in metrics]
        cells.append([*(str(row[name]) for name in first), *told, *(str(row[name]) for name in last)])
    return columns, cells
