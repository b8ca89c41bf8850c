"""Federations by short names: ``central``, ``iid:10``, ``owner:10``, ``dirichlet0.1:10``, ``iid:50/10``."""

import re
from dataclasses import dataclass, replace

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.text import counted
from edgecmd.data.partition import PARTITIONS

CENTRAL_NAME = "central"
SIZES = r"(\d+(?:\.\d+)?)?:(\d+)(?:/(\d+))?"
EXAMPLES = ("central", "iid:10", "owner:10", "dirichlet0.1:10", "iid:50", "iid:50/10")


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationSpec:
    """One federation of a comparison.

    Attributes:
        name: As it was given.
        partition: How the pairs are cut; empty for ``central``.
        num_clients: Clients that there are.
        cohort: Clients asked in a round.
        alpha: Concentration of ``dirichlet``; None for the others.
    """

    name: str
    partition: str = ""
    num_clients: int = 0
    cohort: int = 0
    alpha: float | None = None

    @property
    def central(self) -> bool:
        """Whether all pairs are in one place."""
        return not self.partition

    @property
    def folder(self) -> str:
        """Name for files."""
        return self.name.replace(":", "-").replace("/", "-of-")

    @property
    def title(self) -> str:
        """The federation in words."""
        if self.central:
            return "trained in one place, with as many pairs per step as all clients of a round together"
        asked = "" if self.cohort == self.num_clients else f", {self.cohort} of them asked per round"
        skew = "" if self.alpha is None else f" {self.alpha:g}"
        return f"{counted(self.num_clients, 'client')}, {self.partition}{skew}{asked}"

    def applied(self, config: RunConfig) -> RunConfig:
        """``config`` under this federation; under ``central`` its clients count the pairs of a step."""
        if self.central:
            return config
        federation = replace(
            config.federation,
            partition=self.partition,
            num_clients=self.num_clients,
            client_fraction=self.cohort / self.num_clients,
            alpha=config.federation.alpha if self.alpha is None else self.alpha,
        )
        return replace(config, federation=federation)


def parse_federation(name: str) -> FederationSpec:
    """Read one short name.

    Args:
        name: ``central``, or ``<partition>:<clients>`` with the concentration of ``dirichlet`` behind its
            name and, after a slash, how many clients are asked in a round.

    Raises:
        ConfigError: The name is no such thing.
    """
    if name == CENTRAL_NAME:
        return FederationSpec(name=name)
    match = re.fullmatch(f"({'|'.join(map(re.escape, PARTITIONS))}){SIZES}", name)
    if match is None:
        raise ConfigError(f"--federation has {name!r}. {nearest(name, EXAMPLES)}")
    partition, alpha, clients, cohort = match.groups()
    num, asked = int(clients), int(cohort or clients)
    skewed = [one for one, row in PARTITIONS.items() if row.takes_alpha]
    if bool(alpha) != PARTITIONS[partition].takes_alpha or not 1 <= asked <= num:
        raise ConfigError(
            f"--federation has {name!r}. A concentration is for {' and '.join(skewed)} alone, which need one;"
            f" no more clients can be asked than there are. {nearest(name, EXAMPLES)}"
        )
    return FederationSpec(
        name=name,
        partition=partition,
        num_clients=num,
        cohort=asked,
        alpha=float(alpha) if alpha else None,
    )


def parse_federations(names: str) -> list[FederationSpec]:
    """Federations of ``--federation``, separated by commas; none where it is empty.

    Raises:
        ConfigError: A name cannot be read.
    """
    parts = dict.fromkeys(part.strip() for part in names.split(",") if part.strip())
    return [parse_federation(part) for part in parts]
