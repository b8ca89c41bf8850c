"""Workers that nobody has to wait for, and whose end is explained."""

import errno
import gc
import importlib
import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from edgecmd.core.errors import MachineError
from edgecmd.core.machine import explain, import_torch_quickly
from edgecmd.core.processes import Workers


def die() -> None:
    """As the system's out-of-memory killer ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


def facts() -> tuple[int, bool, bool]:
    import torch

    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return torch.get_num_threads(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN, blocked


def sleep_long(sign: str) -> None:
    Path(sign).write_text("")
    time.sleep(600)


def test_a_worker_has_one_thread_and_leaves_ctrl_c_alone_from_its_first_moment() -> None:
    with Workers(1) as pool:
        assert pool.submit(facts).result() == (1, True, True)
        assert pool.submit(gc.isenabled).result()
        assert pool.submit(gc.get_freeze_count).result() > 100_000, "torch is never looked through"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "this process still gets it"


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(BrokenProcessPool) as caught, Workers(1) as pool:
        pool.submit(die).result()
    assert "--set federation.num_workers=1" in str(explain(caught.value))


def test_ctrl_c_waits_for_no_worker(tmp_path: Path) -> None:
    sign = tmp_path / "sign"

    def interrupted(pool: Workers) -> None:
        pool.submit(sleep_long, str(sign))
        end = time.monotonic() + 1200
        while not sign.exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(1) as pool:
        interrupted(pool)
    # It would have slept for ten minutes; the block has ended, so its workers have.
    assert not pool._processes


def test_no_garbage_is_looked_for_while_torch_is_imported_nor_in_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torch that notes whether collections are on, and fails when it is told to."""
    (tmp_path / "torch.py").write_text("import gc, os\ncollects = gc.isenabled()\nos.environ['GOOD_TORCH']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torch")
    before = list(sys.meta_path)
    for has_to_fail in (True, False):
        import_torch_quickly()
        import_torch_quickly()
        assert len(sys.meta_path) == len(before) + 1
        frozen = gc.get_freeze_count()
        if has_to_fail:
            with pytest.raises(KeyError):
                importlib.import_module("torch")
        else:
            monkeypatch.setenv("GOOD_TORCH", "1")
            assert importlib.import_module("torch").collects is False
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        assert sys.meta_path == before
    import_torch_quickly()
    assert sys.meta_path == before, "torch is there already"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_machine_that_starts_no_process_is_explained(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(MachineError, match="Worker processes cannot be started: .*--jobs 1"):
        Workers(1)
