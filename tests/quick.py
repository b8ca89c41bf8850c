"""What makes whole runs cheap in tests that look at files, words and exit codes, and at no accuracy."""

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from edgecmd import finetune, supervised
from export import bundle
from export.graph import Deployable

FEW_STEPS = 3


@contextmanager
def few_supervised_steps() -> Iterator[None]:
    """Within the block supervised baselines and fine-tuning take three steps a classifier, and not 200."""
    fit, recipe = supervised.fit_classifier, supervised.Recipe(num_steps=FEW_STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "fit_classifier", lambda *args, draw: fit(*args, draw=draw, recipe=recipe))
        patch.setattr(finetune, "NUM_STEPS", FEW_STEPS)
        yield


@contextmanager
def exported_once() -> Iterator[None]:
    """Within the block the file of equal weights and settings is made once.

    The tests of the exporter hold that it would have the same bytes again.
    """
    export, files = bundle.to_onnx, dict[str, bytes]()

    def known(deployable: Deployable) -> bytes:
        weights = [(name, value.numpy()) for name, value in deployable.state_dict().items()]
        content = pickle.dumps((str(deployable), deployable.spec, weights))
        key = hashlib.sha256(content).hexdigest()
        if key not in files:
            files[key] = export(deployable)
        return files[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "to_onnx", known)
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
