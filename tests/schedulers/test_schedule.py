import math

import numpy as np
import pytest
import torch

from monai_pdddpm.schedulers import cumulative_schedule, signal_to_noise, start_state

# (index, abar, SNR) of the cosine schedule with T = 1000; index 299 is PD-DDPM's T' = 300.
COSINE = [
    (99, 0.972, 34.8),
    (199, 0.899, 8.87),
    (249, 0.847, 5.54),
    (299, 0.787, 3.69),
    (399, 0.648, 1.84),
    (499, 0.494, 0.98),
    (699, 0.203, 0.255),
]


@pytest.mark.parametrize(("index", "abar", "snr"), COSINE)
def test_cosine_has_the_known_values(index, abar, snr):
    found = cumulative_schedule(1000, "cosine")[index]
    assert float(found) == pytest.approx(abar, abs=6e-4)
    assert float(signal_to_noise(found)) == pytest.approx(snr, rel=6e-3)


@pytest.mark.parametrize("steps", [50, 1000])
def test_cosine_is_improved_diffusions(steps):
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)]
    expected = np.cumprod(1 - np.array(betas))
    np.testing.assert_allclose(cumulative_schedule(steps, "cosine").numpy(), expected, rtol=2e-3, atol=1e-6)


def test_there_are_1000_times_by_default():
    assert len(cumulative_schedule()) == 1000


def test_linear_is_ddpms_and_takes_its_range():
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(cumulative_schedule(1000, "linear_beta").numpy(), expected, rtol=1e-4)
    expected = np.cumprod(1 - np.linspace(1e-3, 0.05, 100))
    found = cumulative_schedule(100, "linear_beta", beta_start=1e-3, beta_end=0.05)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    # "T' = 300" means little without the schedule: here less than half of the mask's signal is left.
    assert float(cumulative_schedule(1000, "linear_beta")[299]) == pytest.approx(0.396, abs=1e-3)


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


def test_start_state_at_the_ends_of_the_schedule():
    abar = cumulative_schedule(1000, "cosine")
    x, noise = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(start_state(x, noise, abar[999]), noise, atol=1e-4, rtol=0)
    torch.testing.assert_close(start_state(x, noise, abar[0]), x, atol=0.02, rtol=0)


def test_start_state_takes_a_time_per_case():
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    abar = torch.tensor([0.9, 0.1])
    both = start_state(x, noise, abar.view(2, 1, 1, 1))
    for case in range(2):
        torch.testing.assert_close(both[case], start_state(x[case], noise[case], abar[case]), rtol=0, atol=0)
