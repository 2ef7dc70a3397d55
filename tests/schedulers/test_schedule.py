import math

import numpy as np
import pytest
import torch

from monai_pdddpm.schedulers import cumulative_schedule, signal_to_noise, start_state

# (index, abar, SNR) of the cosine schedule with T = 1000; index 299 is PD-DDPM's T' = 300.


@pytest.mark.parametrize(("arguments", "steps"), [((50, "cosine"), 50), ((), 1000)])
def test_cosine_is_improved_diffusions(arguments, steps):
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)]
    expected = np.cumprod(1 - np.array(betas))
    np.testing.assert_allclose(cumulative_schedule(*arguments).numpy(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear_beta", "scaled_linear_beta", "sigmoid_beta"])
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_every_schedule_falls_from_one_towards_zero(schedule, steps):
    abar = cumulative_schedule(steps, schedule)
    assert abar.shape == (steps,)
    assert abar.dtype == torch.float32
    assert (abar > 0).all()
    assert (abar < 1).all()
    assert (abar.diff() < 0).all()


@pytest.mark.parametrize(
    ("schedule", "factor", "index"), [("cosine", 4, 508), ("linear_beta", 1, 150), ("linear_beta", 4, 266)]
)
def test_the_papers_start_in_other_label_codes_and_schedules(schedule, factor, index):
    # Labels in {-1, 1} are twice as far apart as in {0, 1}, so the same evidence is left at a quarter of the SNR.
    paper = signal_to_noise(cumulative_schedule(1000, "cosine")[299])
    snr = signal_to_noise(cumulative_schedule(1000, schedule))
    assert abs(int((snr - paper / factor).abs().argmin()) - index) <= 1


def test_start_state_by_hand():
    x, noise = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0])
    # abar = 0.36: 0.6 x + 0.8 eps
    torch.testing.assert_close(start_state(x, noise, torch.tensor(0.36)), torch.tensor([1.0, 1.0]))
