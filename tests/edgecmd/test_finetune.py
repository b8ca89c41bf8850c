"""Fine-tuning: what is held out, that it starts as the probe, and that it ends at the best it has seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecmd.config.schema import RunConfig
from edgecmd.evaluation import finetune as tuning
from edgecmd.evaluation.evaluate import assess, embedder, headline
from edgecmd.evaluation.finetune import Drawn, finetune, finetune_accuracy, split_labels
from edgecmd.evaluation.metrics import fit_linear
from edgecmd.losses import unit
from edgecmd.training.optimise import Best
from tests.tiny_federation import run_of, task_of


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_every_class_keeps_a_label_to_train_on(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held = split_labels(labels, generator=np.random.default_rng(seed))
    for one, count in enumerate(counts):
        expected = 0 if count == 1 else max(1, round(0.2 * count))
        assert held[labels == one].sum() == expected < count


def drawn(config: RunConfig, *, num: int = 12, held: bool = True) -> Drawn:
    pairs = task_of(config).data.train
    labels = np.arange(num) % 3
    split = split_labels(labels, generator=np.random.default_rng(0)) if held else np.zeros(num, dtype=bool)
    return Drawn(target=task_of(config).target_input(pairs.target)[:num], labels=labels, held=split)


def test_it_starts_as_the_linear_probe(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    student, given_labels = run_of(tiny).new_student(), drawn(tiny)
    monkeypatch.setattr(tuning, "NUM_STEPS", 0)
    model = finetune(student, given_labels, run_of(tiny), draw=0)
    with torch.no_grad():
        embedding = unit(student.eval()(given_labels.target)).numpy()
        scores = model(given_labels.target).softmax(dim=1).numpy()
    used = ~given_labels.held
    probe = fit_linear(embedding[used], given_labels.labels[used])
    np.testing.assert_allclose(scores, probe.predict_proba(embedding), atol=1e-4)


def test_two_classes_start_as_the_probe_too(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "NUM_STEPS", 0)
    one = drawn(tiny, held=False)
    one = replace(one, labels=np.arange(12) % 2)
    student = run_of(tiny).new_student().eval()
    with torch.no_grad():
        embedding = unit(student(one.target)).numpy()
        scores = finetune(student, one, run_of(tiny), draw=0)(one.target).softmax(dim=1).numpy()
    np.testing.assert_allclose(scores, fit_linear(embedding, one.labels).predict_proba(embedding), atol=1e-4)


def held_loss(model: nn.Module, given_labels: Drawn) -> float:
    rows = torch.from_numpy(np.flatnonzero(given_labels.held))
    with torch.no_grad():
        classes = torch.from_numpy(given_labels.labels)[rows]
        return float(nn.functional.cross_entropy(model(given_labels.target[rows]), classes))


def test_the_best_look_counts_and_the_student_is_not_changed(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, given_labels = run_of(tiny).new_student(), drawn(tiny)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    seen: list[float] = []
    look = Best.is_over

    def watched(self: Best) -> bool:
        seen.append(held_loss(self.model.eval(), given_labels))
        return look(self)

    monkeypatch.setattr(Best, "is_over", watched)
    monkeypatch.setattr(tuning, "LEARNING_RATE", 3e-3)
    model = finetune(student, given_labels, run_of(tiny), draw=0)
    assert len(seen) > 2
    assert held_loss(model, given_labels) == pytest.approx(min(seen), abs=1e-5)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name])


def test_one_label_a_class_makes_all_steps(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "NUM_STEPS", 3)
    student, alone = run_of(tiny).new_student(), drawn(tiny, num=3)
    assert not alone.held.any()
    model = finetune(student, alone, run_of(tiny), draw=0)
    assert not torch.equal(model.student.projector.weight, student.projector.weight)


def test_it_stands_beside_the_probe_on_request(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "NUM_STEPS", 4)
    student = run_of(tiny).new_student()
    wanted = replace(tiny, evaluate=replace(tiny.evaluate, finetune=True))
    table = assess(embedder(student, task_of(wanted)), run_of(wanted), student=student)
    line = headline(table)
    assert {"finetune_1", "finetune_all", "linear_1", "nmi"} <= line.keys()
    assert table["few_labels"]["group"]["finetune"]["1"]["num"] == 2  # type: ignore[index]
    assert "finetune_1" not in headline(
        assess(embedder(student, task_of(tiny)), run_of(tiny), student=student)
    )
    again = finetune_accuracy(student, run_of(wanted), labelling="group", num_labels=0, draw=0)
    assert line["finetune_all"] == again
