"""What makes whole runs cheap in tests that look at files, words and exit codes, and at no accuracy."""

import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.onnx._internal._lazy_import import onnxscript_apis

from edgecmd.audits.static import checks
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.core.processes import Workers
from edgecmd.evaluation import finetune, supervised
from export import bundle
from export.graph.deployable import Deployable

FEW_STEPS = 3
# Which paint charts, the gallery and tables of studies.
PAINTERS = ("drawing", "pictures", "studies")


class KeptWorkers(Workers):
    """Workers that outlive whoever works with them, until they are ended; of a block, too."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def end(self) -> None:
        Workers.shutdown(self)


class Here:
    """A pool that does the jobs in this process, so that a test can break them off."""

    def __init__(self, *_: object, **__: object) -> None:
        self.cancelled = False

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[[Any], object], job: object) -> "Future[object]":
        done: Future[object] = Future()
        try:
            done.set_result(work(job))
        except ValueError as error:
            done.set_exception(error)
        return done

    def shutdown(self, **_: object) -> None:
        self.cancelled = True


# Two tries of each of the six kinds of neighbours, where an audit makes 96 in climbs of four: what a search
# finds is told by its own tests. As the first lines of a child process, and the same here.
BRIEF_CHECKS = (
    "from edgecmd.core.machine import import_torch_quickly; import_torch_quickly();"
    "from functools import partial; from edgecmd.audits.static import checks;"
    "checks.Effort = partial(checks.Effort, num_tries=12, climb_length=2);"
)


@contextmanager
def brief_checks() -> Iterator[None]:
    """Within the block audits of the level ``check`` make few tries where a test says nothing of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "Effort", partial(Effort, num_tries=12, climb_length=2))
        patch.setattr(checks, "BATCH_EFFORT", Effort(num_tries=6, num_pairs=16, climb_length=1))
        yield


@contextmanager
def few_supervised_steps() -> Iterator[None]:
    """Within the block supervised baselines and fine-tuning take three steps a classifier, and not 200."""
    fit, few = supervised.fit_classifier, supervised.Recipe(num_steps=FEW_STEPS)

    def fitted(*args: Any, recipe: object = None, **kwargs: Any) -> supervised.Classifier:
        return fit(*args, recipe=few, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "fit_classifier", fitted)
        patch.setattr(finetune, "NUM_STEPS", FEW_STEPS)
        yield


@contextmanager
def exported_once(files: dict[str, bytes] | None = None) -> Iterator[None]:
    """Within the block the file of equal weights and settings is made once and kept in ``files``.

    The tests of the exporter hold that it would have the same bytes again.
    """
    export, files = bundle.to_onnx, {} if files is None else files

    def known(deployable: Deployable) -> bytes:
        weights = [(name, value.numpy()) for name, value in deployable.state_dict().items()]
        content = pickle.dumps((str(deployable), deployable.spec, weights))
        key = hashlib.sha256(content).hexdigest()
        if key not in files:
            files[key] = export(deployable)
        return files[key]

    with operators_listed_once(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "to_onnx", known)
        yield


@contextmanager
def operators_listed_once() -> Iterator[None]:
    """Within the block the exporter lists its operators at its first file only: a third of a file's time.

    The list is that of the modules of onnxscript; the exporter copies it.
    """
    list_all = onnxscript_apis.get_torchlib_ops
    listed: list[Any] = []

    def known() -> list[Any]:
        if not listed:
            listed.extend(list_all())
        return listed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", known)
        yield


@contextmanager
def blank_pngs(painters: Sequence[str] = PAINTERS) -> Iterator[None]:
    """Within the block the PNG files of a report are a white pixel: to paint them is half of its time."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(buffer, format="PNG")
    with pytest.MonkeyPatch.context() as patch:
        for name in painters:
            patch.setattr(f"edgecmd.report.{name}.to_png", lambda _: buffer.getvalue())
        yield


@contextmanager
def libraries_untraced() -> Iterator[None]:
    """Within the block coverage does not follow the export and the drawing into torch and matplotlib.

    Its tracer is called for each line of theirs, of which it keeps none, and doubles their time. What
    they call of ours is run elsewhere, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", _untraced(torch.onnx.export))
        patch.setattr(Figure, "savefig", _untraced(Figure.savefig))
        yield


def _untraced(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return call(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return called
