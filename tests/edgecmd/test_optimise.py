"""The loop of optimiser steps, held against arithmetic by hand and against a loop written out."""

import pytest
import torch
from torch import nn

from edgecmd.training.optimise import Best, mean_gradient, one_cycle, optimise


def weight_at(start: float) -> nn.Linear:
    """A model of one number."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    return model


def test_steps_by_hand() -> None:
    model, told, rates = weight_at(4.0), list[tuple[int, float]](), [0.5, 0.25]
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = rates[step]

    # Of the loss w^2 / 2 the gradient is w: 4 - 0.5 * 4 = 2, then 2 - 0.25 * 2 = 1.5. A gradient that was
    # left from the first step would make it 2 - 0.25 * 6 = 0.5.
    mean = optimise(
        optimizer,
        2,
        gradient=lambda _: mean_gradient(model.weight.square() / 2),
        schedule=schedule,
        progress=lambda done, loss: told.append((done, loss)),
    )
    assert model.weight.item() == 1.5
    assert told == [(1, 8.0), (2, 2.0)]
    assert mean == 5.0


def test_a_loss_that_is_not_told_is_told_to_nobody() -> None:
    model, told = weight_at(4.0), list[tuple[int, float]]()

    def gradient(step: int) -> None:
        model.weight.grad = torch.full((1, 1), float(step + 1))

    mean = optimise(
        torch.optim.SGD(model.parameters(), lr=1.0),
        2,
        gradient=gradient,
        progress=lambda done, loss: told.append((done, loss)),
    )
    assert (model.weight.item(), mean, told) == (1.0, 0.0, [])


def test_no_steps_change_nothing() -> None:
    model = weight_at(4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert optimise(optimizer, 0, gradient=lambda _: mean_gradient(model.weight)) == 0.0
    assert model.weight.item() == 4.0


@pytest.mark.parametrize(("patience", "steps"), [(1, 4), (2, 6)])
def test_it_stops_when_looks_do_not_get_better_and_puts_the_best_back(patience: int, steps: int) -> None:
    model, made = weight_at(4.0), list[int]()

    def gradient(step: int) -> float:
        made.append(step)
        return mean_gradient(model.weight)

    # Each step takes one away: 4, then 2 after two steps, 0 after four, -2 after six; 2 is best.
    best = Best(model, lambda: abs(model.weight.item() - 2.0), every=2, patience=patience)
    optimise(torch.optim.SGD(model.parameters(), lr=1.0), 9, gradient=gradient, best=best)
    assert len(made) == steps
    assert model.weight.item() == 2.0
    assert not model.training


def test_without_anything_held_out_all_steps_count() -> None:
    model = weight_at(4.0)
    best = Best(model, None, every=1, patience=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimise(optimizer, 3, gradient=lambda _: mean_gradient(model.weight), best=best)
    assert (model.weight.item(), model.training) == (1.0, False)


def test_one_cycle_is_that_of_torch_to_the_last_bit() -> None:
    model, reference, num = weight_at(4.0), weight_at(4.0), 7
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = one_cycle(optimizer, peak=0.1, num_steps=num)
    optimise(optimizer, num, gradient=lambda _: mean_gradient(model.weight.square()), schedule=schedule)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=num + 1)
    for _ in range(num):
        optimizer.zero_grad()
        reference.weight.square().mean().backward()
        optimizer.step()
        cycle.step()
    assert torch.equal(model.weight, reference.weight)
