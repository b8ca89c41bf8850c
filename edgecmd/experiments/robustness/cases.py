"""What ``edgecmd robustness`` is asked for: its cases, checked before anything is trained, and their jobs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecmd.config.assemble import run_folder
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError

Table = dict[str, Any]


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
        num_seeds: How many, from the seed of the settings.
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
        num_seeds: How many, from the seed of the settings.
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
    if config.federation.compressed:
        raise ConfigError(
            f"federation.compression={config.federation.compression!r}: an attacker multiplies the move that"
            " it made, and here that travels coded. Set federation.compression=none."
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
