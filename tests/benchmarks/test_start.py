import pytest
import torch
from torch import nn

from benchmarks.trust.start import first_predictions
from monai_pdddpm.networks import PDDDPM


class Threshold(nn.Module):
    """A segmenter: bright is the structure."""

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 50


class Echo(nn.Module):
    """A denoiser that believes its noisy state."""

    num_classes, divisor = 2, 1

    def encode(self, image, presegmentation):
        return [image]

    def denoise(self, x_t, t, features, solver="", solver_steps=0):
        return 4 * x_t


@pytest.fixture
def network():
    return PDDDPM(Threshold(), Echo(), time_steps=[0])


def test_nothing_changes_where_the_proposal_is_the_truth(network):
    image = torch.randn(1, 1, 6, 6, 6).sign()
    found = first_predictions(network, image, (image[0, 0] > 0).long(), 300)
    assert torch.equal(found["presegmentation"], found["truth"])


def test_a_wrong_proposal_counts_less_the_later_the_start(network):
    image = torch.randn(1, 1, 6, 6, 6).sign()
    wrong = (image[0, 0] < 0).long()
    change = []
    for start_step in (1, 500, 900, 1000):
        found = first_predictions(network, image, wrong, start_step)
        change.append(float((found["presegmentation"] - found["truth"]).abs().mean()))
    assert change[0] == pytest.approx(1, abs=1e-2)  # no noise: one says all, the other nothing
    assert change == sorted(change, reverse=True)
    assert change[-1] < 0.02
