"""A step with gradients that are not finite leaves the weights as they are."""

import pytest
import torch
from ignite.engine import Engine

from monai_pdddpm.handlers import FiniteGradients
from monai_pdddpm.utils.errors import UserError


def attached(weight):
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    FiniteGradients(optimizer).attach(Engine(lambda engine, batch: None))
    return optimizer


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_step_is_skipped_and_the_next_one_is_not(broken):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = attached(weight)
    weight.grad = torch.tensor([1.0, broken, 1.0])
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer.step()
    assert (weight.detach() < 1).all()


def test_training_that_diverges_is_stopped():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = attached(weight)
    for _ in range(19):
        weight.grad = torch.tensor([float("nan")])
        optimizer.step()
    weight.grad = torch.tensor([float("nan")])
    with pytest.raises(UserError, match="20 steps in a row"):
        optimizer.step()
