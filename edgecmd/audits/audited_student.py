"""The students of a target whose step is looked at: its present weights, and the first ones.

Shapes: B batch, C channels, K anchors, D embedding dimension.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.audits.target import Target, trained_student
from edgecmd.models.students import Student

TRAINED, FIRST = "trained weights", "first weights"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A student, and what its step sees beside the pairs.

    Attributes:
        name: Which weights these are.
        student: Encoder, on the CPU.
        anchors: Public teacher features, (K, D).
        in_channels: C.
        image_size: Height and width of an input, one number where they are equal.
    """

    name: str
    student: nn.Module
    anchors: Float[Tensor, "anchors dim"]
    in_channels: int
    image_size: int | tuple[int, int]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.anchors.shape[1]


def subjects(target: Target) -> list[Subject]:
    """The trained student, where there is one, and the student that the settings start from.

    A guarantee holds for all weights, so both are examined: features of an untrained student are close
    together, and the pairs that exploit this are not the ones that hurt a trained student.

    Raises:
        DataError: The student's file or the data set is missing or damaged.
        ConfigError: A setting does not suit the data.
    """
    from edgecmd.models.devices import place

    cpu = torch.device("cpu")
    students: dict[str, Student] = {}
    trained = trained_student(target)
    if trained is not None:
        students[TRAINED] = trained
    students[FIRST] = place(target.run.new_student(), cpu)
    anchors = target.run.anchors.to(cpu)
    return [
        Subject(
            name=name,
            student=student,
            anchors=anchors,
            in_channels=student.in_channels,
            image_size=target.run.task.input_shape[1:],
        )
        for name, student in students.items()
    ]
