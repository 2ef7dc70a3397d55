"""The memory of a training step is counted once per storage, and scales with the window."""

import torch
from torch import nn

from monai_pdddpm.cli.memory import LIBRARIES, MemoryNeed, memory_budget, memory_need, saved_bytes
from monai_pdddpm.cli.planner import GIB


def test_saved_bytes():
    x = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum()) == 4000  # one storage, kept twice
    assert saved_bytes(lambda: x.exp().sum()) == 4000
    assert saved_bytes(lambda: x.exp().exp().sum()) == 8000
    assert saved_bytes(lambda: (x * x).sum(), [x]) == 0


def test_need_of_a_bundle():
    plain, given = (memory_need(1, 2, 8, 4, segmenter) for segmenter in (None, nn.Conv3d(1, 2, 1)))
    assert plain.fixed > LIBRARIES
    assert plain.per_voxel >= given.per_voxel > 0  # with a given segmenter, the denoiser alone is trained
    wide = memory_need(1, 2, 16, 4, None)
    assert 1.7 < wide.per_voxel / plain.per_voxel < 2.3  # activations grow with the width, weights with its square
    assert 3 < (wide.fixed - LIBRARIES) / (plain.fixed - LIBRARIES) < 4.2


def test_bytes():
    assert MemoryNeed(10, 2).bytes((2, 3, 4), 5) == 10 + 2 * 24 * 5


def test_memory_budget():
    assert memory_budget(3).size == 3 * GIB
    assert memory_budget().size > 0
    assert memory_budget().text
