"""What a training step keeps is counted once, and foreseen for other windows."""

import pytest
import torch
from torch import nn

from monai_pdddpm.cli.memory import CONTEXT, GIB, OVERHEAD, Need, memory_at_hand, need_of, saved_bytes


def test_saved_bytes():
    x = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum()) == 4000  # one storage, though kept twice
    assert saved_bytes(lambda: x.exp().sum()) == 4000
    assert saved_bytes(lambda: x.exp().exp().sum()) == 8000
    assert saved_bytes(lambda: (x * x).sum(), [x]) == 0


def test_need_of_a_convolution():
    network = nn.Conv3d(2, 4, 3, padding=1)
    image = torch.zeros(1, 2, 8, 8, 8)
    need = need_of(network, lambda: network(image).sin(), 512)
    assert need.per_voxel == pytest.approx(OVERHEAD * 4 * (2 + 4))  # its input, and what the sine keeps
    assert need.fixed == 16 * (2 * 4 * 27 + 4) + CONTEXT
    other = nn.Linear(10, 10, bias=False)
    assert need_of(network, lambda: network(image), 512, [other]).fixed == need.fixed + 400


def test_need():
    assert Need(10, 2).of((2, 3, 4), 5) == 10 + 2 * 24 * 5


def test_memory_at_hand():
    assert memory_at_hand(3).size == 3 * GIB
    assert memory_at_hand().size > 0
    assert memory_at_hand().words
