"""Which clients of a round train at once: those whose steps are small, and of one size.

Who trains beside whom follows from the cohort alone, before anybody begins. The last digits of a client's
weights follow from the size of its group and its place there, so no worker, order or failure may move it.
"""

from collections.abc import Iterable

from clients.work import Group
from edgecmd.run import Run
from edgecmd.training.stacked import LEAST_AT_ONCE, is_small


def groups_of(run: Run, clients: Iterable[int]) -> list[Group]:
    """The groups of a round, in the order in which they train.

    Args:
        run: Says how many clients there are in a group at most, and what each holds.
        clients: The cohort.

    Returns:
        Each client once: in groups of ``federation.clients_at_once``, and fewer where these run out; alone
        where its batch is not small (`is_small`), or fewer than `LEAST_AT_ONCE` are left with batches of its
        size. One by one, in the order of ``clients``, where that setting is 1.
    """
    most = run.federation.clients_at_once
    if most == 1:
        return [(client,) for client in clients]
    shape, num_views = run.task.input_shape, run.loss.num_views
    groups: list[Group] = []
    waiting: dict[int, list[int]] = {}
    for client in clients:
        rows = min(run.distill.batch_size, len(run.part(client)))
        if not is_small(rows, shape, num_views=num_views):
            groups.append((client,))
            continue
        together = waiting.setdefault(rows, [])
        together.append(client)
        if len(together) == most:
            groups.append(tuple(waiting.pop(rows)))
    for rest in waiting.values():
        enough = len(rest) >= min(most, LEAST_AT_ONCE)
        groups += [tuple(rest)] if enough else [(client,) for client in rest]
    return groups
