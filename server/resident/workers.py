"""Clients that take turns in several processes, each of which has a student that stays.

Weights are in a file that all of them map into memory: first those of the round, then a place for each turn
that is under way. What travels is the numbers of the clients that train at once, and their losses.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as WaitTimeout
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from clients.work import ClientError, Group, Taken, Turns
from edgecmd.core.errors import MachineError
from edgecmd.core.machine import explain
from edgecmd.core.processes import Workers
from edgecmd.models.devices import share_of_gpu
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays
from server.local_grid import WORKER_KILLED

AHEAD = 2
ALIGNED = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where weights are in one place of the file.

    Attributes:
        tensors: Name, shape, dtype and first byte of each.
        num_bytes: Size of a place.
    """

    tensors: tuple[tuple[str, tuple[int, ...], str, int], ...]
    num_bytes: int

    @classmethod
    def of(cls, arrays: Arrays) -> "Layout":
        """The layout of ``arrays``, in their order."""
        tensors, first = [], 0
        for name, value in arrays.items():
            tensors.append((name, value.shape, value.dtype.str, first))
            first += -(-value.nbytes // ALIGNED) * ALIGNED
        return cls(tensors=tuple(tensors), num_bytes=max(first, ALIGNED))

    def views(self, memory: np.ndarray, place: int) -> dict[str, np.ndarray]:
        """The weights at a place, as views of the mapped bytes."""
        start = place * self.num_bytes
        return {
            name: np.ndarray(shape, dtype, buffer=memory.data, offset=start + first)
            for name, shape, dtype, first in self.tensors
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One turn, as a worker is told of it: of a group, whose weights go to a place and those behind it."""

    remake: Callable[[], Run]
    token: str
    path: Path
    layout: Layout
    round_index: int
    group: Group
    place: int


Told = dict[int, float | ClientError]
# What a worker keeps between turns, by the file of weights: of one run, of one round.
_KEPT: dict[Path, tuple[Turns, np.ndarray, int]] = {}


def _turn(work: _Work) -> Told:
    """Take a turn in a worker; each client's loss, or how it failed."""
    turns, memory, round_index = _KEPT.get(work.path, (None, None, 0))
    if turns is None or memory is None:
        _KEPT.clear()
        turns, memory = Turns(work.remake(), work.token), _map(work.path)
    if round_index != work.round_index:
        turns.begin(work.layout.views(memory, 0), work.round_index)
        _KEPT[work.path] = (turns, memory, work.round_index)
    told: Told = {}
    for client, taken in turns.turn(work.group).items():
        if isinstance(taken, ClientError):
            told[client] = taken
            continue
        place = work.place + work.group.index(client)
        for name, view in work.layout.views(memory, place).items():
            view[...] = taken.weights[name]
        told[client] = taken.loss
    return told


def _map(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r+")


class TurnWorkers:
    """Clients in turn, in processes of one thread each; see `clients.work.Turns`.

    Args:
        run: The run; it can be made in another process.
        token: Name of the run.

    Guarantees:
        A turn gives to the bit what it gives in this process, in whichever worker. A worker that is killed
        costs the turns that were under way, which are taken again in new processes.
    """

    turn = staticmethod(_turn)

    def __init__(self, run: Run, token: str) -> None:
        assert run.remake is not None
        self._remake, self._token, self._num = run.remake, token, run.federation.num_workers
        self._begin_worker = partial(share_of_gpu, run.device.type, self._num + 1)
        self._pool = Workers(self._num, begin=self._begin_worker)
        self._folder = tempfile.TemporaryDirectory(prefix="edgecmd-")
        self._layout: Layout | None = None
        self._memory = np.empty(0, np.uint8)
        self._round_index = 0
        self._most = min(run.federation.clients_at_once, run.federation.num_clients)
        self._line: Iterator[Group] = iter(())
        self._under_way: dict[Group, tuple[Future[Told], int]] = {}
        self._free: list[int] = []
        self._given: int | None = None
        self._taken: dict[int, Taken | ClientError] = {}

    def begin(self, arrays: Arrays, round_index: int) -> None:
        """Take the global weights of a round, once no turn of an earlier one goes on.

        Raises:
            MachineError: There is no room for them.
        """
        self._settle()
        if self._layout is None:
            self._layout = Layout.of(arrays)
            self._memory = self._mapped(1 + AHEAD * self._num * self._most, self._layout.num_bytes)
        self._round_index = round_index
        for name, view in self._layout.views(self._memory, 0).items():
            view[...] = arrays[name]

    def line_up(self, groups: Iterable[Group]) -> None:
        """Say whose turns will be asked for, in this order, and who trains at once; the first begin."""
        self._settle()
        self._line = iter(groups)
        self._free = [1 + turn * self._most for turn in range(AHEAD * self._num)]
        self._fill()

    def take(self, client: int, *, end: float) -> Taken | None:
        """The turn of a client that is first in line; None where it has not ended by ``end``.

        Raises:
            ClientError: It failed; the message names client and stage.
            MachineError: A worker was killed twice during this turn.
        """
        if client not in self._taken and not self._next(client, end):
            return None
        found = self._taken.pop(client)
        if isinstance(found, ClientError):
            raise found
        return found

    def close(self) -> None:
        """End the workers, and remove the file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._memory = np.empty(0, np.uint8)
        self._folder.cleanup()

    def _next(self, client: int, end: float) -> bool:
        """Whether the turn of the client's group has ended by ``end``; it is then what is taken from."""
        assert self._layout is not None
        if self._given is not None:
            self._free.append(self._given)
            self._given, self._taken = None, {}
        self._fill()
        group = next((one for one in self._under_way if client in one), None)
        told = None if group is None else self._ended(group, end)
        if group is None or told is None:
            return False
        _, self._given = self._under_way.pop(group)
        for one, loss in told.items():
            place = self._given + group.index(one)
            self._taken[one] = (
                loss
                if isinstance(loss, ClientError)
                else Taken(weights=self._layout.views(self._memory, place), loss=loss)
            )
        return True

    def _ended(self, group: Group, end: float, *, again: bool = True) -> Told | None:
        future, _ = self._under_way[group]
        try:
            return future.result(max(0.0, end - time.monotonic()))
        except WaitTimeout:
            return None
        except BrokenProcessPool as error:
            if not again:
                raise MachineError(WORKER_KILLED) from error
            self._start_again()
            return self._ended(group, end, again=False)

    def _fill(self) -> None:
        while self._free:
            group = next((one for one in self._line if any(client is not None for client in one)), None)
            if group is None:
                return
            self._under_way[group] = self._submit(group, self._free.pop())

    def _submit(self, group: Group, place: int) -> tuple[Future[Told], int]:
        assert self._layout is not None
        work = _Work(
            remake=self._remake,
            token=self._token,
            path=self._path,
            layout=self._layout,
            round_index=self._round_index,
            group=group,
            place=place,
        )
        return self._pool.submit(self.turn, work), place

    def _start_again(self) -> None:
        """New processes, which take the turns that were under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = Workers(self._num, begin=self._begin_worker)
        self._under_way = {group: self._submit(group, place) for group, (_, place) in self._under_way.items()}

    def _settle(self) -> None:
        """Wait for turns that nobody will ask for; the deadline of their round has passed."""
        self._line = iter(())
        futures = [future for future, _ in self._under_way.values() if not future.cancel()]
        wait(futures)
        self._under_way, self._given, self._taken = {}, None, {}

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / "weights"

    def _mapped(self, num_places: int, num_bytes: int) -> np.ndarray:
        try:
            with self._path.open("wb") as file:
                # Really written: a hole in a file on a full disk would end the process that fills it.
                for _ in range(num_places):
                    file.write(bytes(num_bytes))
        except OSError as error:
            raise explain(error, doing=f"{self._path} cannot be written") from error
        return _map(self._path)
