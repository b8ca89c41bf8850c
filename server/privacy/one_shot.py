"""The server's side of sums that clients release once: their mean, and the student that follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from edgecmd.models.students import Student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.moments import CROSS, FEATURES, Moments, solved
from edgecmd.privacy.step.private_step import gradient_of_sum
from edgecmd.training.averaging import Arrays, load_arrays, to_arrays
from server.strategies import to_record


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OneShot:
    """What is released in place of weights, and what becomes of it.

    Attributes:
        plan: Noise and divisor.
        student: Of the run; its weights are overwritten.
        reference: Names, shapes and dtypes of a reply.
    """

    plan: PrivacyPlan
    student: Student
    reference: Arrays

    def combine(self, replies: Sequence[Message], arrays: Arrays) -> Message:
        """The reply that stands for all.

        Args:
            replies: Screened replies, with the names and shapes of ``reference``.
            arrays: Global weights of the round.
        """
        records = [one.content.array_records["arrays"] for one in replies]
        mean = {
            name: np.mean([one[name].numpy().astype(np.float64) for one in records], axis=0)
            for name in self.reference
        }
        return self.reply(mean, arrays, noise_std=self.plan.noise_std / len(replies) ** 0.5)

    def of_sum(self, total: np.ndarray, arrays: Arrays) -> Message:
        """The reply that stands for the clients of a secure sum, ``total`` being their gradients'."""
        moments = Moments(self.student)
        gradient = gradient_of_sum(moments, total / self.plan.normaliser)
        mean = {name: -value.astype(np.float64) for name, value in gradient.items()}
        return self.reply(mean, arrays, noise_std=self.plan.noise_std)

    def reply(self, mean: Mapping[str, np.ndarray], arrays: Arrays, *, noise_std: float) -> Message:
        """Weights that follow from the noised moments, as a reply.

        Args:
            mean: Moments by the names of ``reference``, divided by the plan's normaliser.
            arrays: Global weights of the round.
            noise_std: Of the noise on their sum, before that division.
        """
        load_arrays(self.student, arrays)
        std = noise_std / self.plan.normaliser
        found = solved(self.student, mean[FEATURES], mean[CROSS], noise_std=std)
        updated = {
            name: np.asarray(found.get(name, value), dtype=value.dtype) for name, value in arrays.items()
        }
        content = RecordDict({"arrays": to_record(updated), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, 1, "train")


def one_shot(plan: PrivacyPlan | None, student: Student) -> OneShot | None:
    """What a run releases once; None where it releases weights, or gradients, round after round.

    Raises:
        PrivacyError: The student has no linear last layer.
    """
    if plan is None or not plan.row.one_shot:
        return None
    return OneShot(plan=plan, student=student, reference=to_arrays(Moments(student)))
