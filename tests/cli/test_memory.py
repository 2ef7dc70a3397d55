"""The memory of a training step is the memory that autograd keeps."""

import math

import pytest
import torch

from monai_pdddpm.cli.memory import GIB, LIBRARIES, OVERHEAD, SOLVER_STEPS, memory_budget, training_memory
from monai_pdddpm.networks import ODEUNet


def kept_bytes(step):
    """Bytes that autograd keeps for the backward pass, each storage counted once."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(("filters", "channels", "classes"), [(8, 1, 2), (16, 1, 2), (16, 4, 5)])
@pytest.mark.parametrize(("divisor", "factors"), [(8, (2, 4, 8)), (4, (2, 4))])
def test_formula(filters, channels, classes, divisor, factors):
    network = ODEUNet(3, channels, classes, classes, [factor * filters for factor in factors], filters)

    def step(side):
        image, one_hot = (torch.zeros(1, size, side, side, side) for size in (channels, classes))
        with torch.autocast("cpu", torch.bfloat16):
            features = network.encode(image, one_hot)
            network.denoise(one_hot, torch.zeros(1), features, solver_steps=SOLVER_STEPS)

    sides = (3 * divisor, 5 * divisor)
    small, large = (kept_bytes(lambda side=side: step(side)) for side in sides)
    measured = OVERHEAD * (large - small)  # without what does not depend on the window
    found = [training_memory([side] * 3, 1, filters, channels, classes) for side in sides]
    assert found[1] - found[0] == pytest.approx(measured, rel=0.12)


def test_parts():
    least = training_memory([0, 0, 0], 1, 16, 1, 2)
    assert LIBRARIES < least < LIBRARIES + 0.1 * GIB
    assert training_memory([0, 0, 0], 1, 16, 1, 2, 1000) - least == 4000
    one, two = (training_memory([8, 8, 8], batch, 16, 1, 2) - least for batch in (1, 2))
    assert math.isclose(two, 2 * one)


def test_budget():
    assert memory_budget(3).size == 3 * GIB
    assert memory_budget().size > 0
    assert memory_budget().text
