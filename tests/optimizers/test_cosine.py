"""The learning rate over a training, in one go and in two."""

import io
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from monai_pdddpm.optimizers import CosineDecay


def optimizer():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    return torch.optim.AdamW([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.25}], lr=0.5)


def rates(scheduler, epochs):
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def after(epochs, scheduler):
    """Return the states of optimizer and scheduler after some epochs, as a checkpoint has them."""
    rates(scheduler, epochs)
    file = io.BytesIO()
    torch.save([scheduler.optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_is_pytorchs_cosine():
    ours = rates(CosineDecay(optimizer(), 7), 8)
    assert ours[0] == [0.5, 0.25]
    assert ours[7] == [0, 0]
    assert ours == [pytest.approx(rate, abs=1e-12) for rate in rates(CosineAnnealingLR(optimizer(), 7), 8)]


@pytest.mark.parametrize("begun_with", [CosineDecay, CosineAnnealingLR])
@pytest.mark.parametrize("longer", [7, 12])
def test_goes_on_along_its_own_cosine(begun_with, longer):
    states = after(5, begun_with(optimizer(), 7))
    scheduler = CosineDecay(optimizer(), longer)
    scheduler.optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    expected = [0.5 * (1 + math.cos(math.pi * n / longer)) / 2 for n in range(5, longer + 1)]
    found = rates(scheduler, longer - 4)
    assert [first for first, _ in found] == pytest.approx(expected, abs=1e-12)
    assert [second for _, second in found] == pytest.approx([rate / 2 for rate in expected], abs=1e-12)
    assert scheduler.get_last_lr() == [0, 0]  # and stays there


def test_pytorchs_would_rise_again():
    states = after(7, CosineAnnealingLR(optimizer(), 7))
    scheduler = CosineAnnealingLR(optimizer(), 12)
    scheduler.optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    found = [first for first, _ in rates(scheduler, 6)]
    assert found == sorted(found)
    assert found[-1] > 0.4  # of 0.5 at first
