"""Dense students of either kind: their grid, what a place depends on, and the decoder by hand."""

import pytest
import torch

from edgecmd.models.students import DENSE_STRIDE, STUDENTS, Student, build_student
from edgecmd.models.trunks.convolutions import Pyramid

DENSE = [name for name, row in STUDENTS.items() if row.dense]


def made(architecture: str, *, in_channels: int = 1, seed: int = 0) -> Student:
    generator = torch.Generator().manual_seed(seed)
    return build_student(architecture, in_channels=in_channels, embedding_dim=6, generator=generator)


@pytest.mark.parametrize("architecture", DENSE)
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_a_place_for_each_square_of_the_stride(architecture: str, size: tuple[int, int]) -> None:
    found = made(architecture, in_channels=2)(torch.zeros(3, 2, *size))
    assert found.shape == (3, 6, size[0] // DENSE_STRIDE, size[1] // DENSE_STRIDE)


@pytest.mark.parametrize("architecture", DENSE)
def test_places_depend_on_their_own_picture_alone_and_nothing_is_in_place(architecture: str) -> None:
    student = made(architecture).train()
    batch = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    poisoned = batch.clone()
    poisoned[2] = float("nan")
    others = [0, 1, 3]
    assert torch.equal(student(poisoned)[others], student(batch)[others])
    assert not list(student.buffers())
    assert not any(getattr(module, "inplace", False) for module in student.modules())


def test_the_pretrained_trunk_is_that_of_the_student_of_whole_pictures() -> None:
    whole, dense = (made(name, seed=seed).state_dict() for name, seed in (("lite0-s", 0), ("seg-lite0-s", 3)))
    trunk = [name for name in whole if name.startswith("trunk.")]
    assert trunk == [name for name in dense if name.startswith("trunk.")]
    assert all(torch.equal(whole[name], dense[name]) for name in trunk)


def test_the_pyramid_adds_the_enlarged_coarser_map_by_hand() -> None:
    pyramid = Pyramid((1, 2), width=1)
    for convolution in pyramid.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            torch.nn.init.zeros_(convolution.weight)
            torch.nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            middle = convolution.kernel_size[0] // 2
            # The mean of the channels at the place itself.
            convolution.weight.data[:, :, middle, middle] = 1 / convolution.in_channels
    fine = torch.tensor([[1.0, 2.0, 3.0, -9.0]]).view(1, 1, 2, 2)
    coarse = torch.tensor([[2.0, 6.0]]).view(1, 2, 1, 1)
    # The coarse place has the mean 4, seen by each of the four fine ones; below zero is cut.
    assert pyramid([fine, coarse]).flatten().tolist() == [5.0, 6.0, 7.0, 0.0]
