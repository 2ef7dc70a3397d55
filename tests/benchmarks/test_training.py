"""The batches follow the package's phantoms, and a training resumes."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

from benchmarks.trust import augmentation, fit, phantoms
from monai_pdddpm.data.phantom_distribution import make_phantom_scan


def test_phantoms_follow_the_same_distribution():
    torch.manual_seed(0)
    images, scaled = phantoms.draw_phantoms(6, torch.device("cpu"))
    drawn = torch.cat([phantoms.draw_annotations(scaled) for _ in range(4)])
    scans, rng = [make_phantom_scan(seed=seed) for seed in range(6)], np.random.default_rng(0)
    expected = np.stack([scan.draw_annotation(rng) for scan in scans for _ in range(4)])
    for label in (1, 2):  # mean volume over subjects, whose SD is about a quarter of it
        found, known = (drawn == label).float().mean().item(), (expected == label).mean()
        assert found == pytest.approx(known, rel=0.35)
    normalized = np.stack([(s.image - s.image.mean()) / s.image.std() for s in scans])
    quantiles = (0.05, 0.5, 0.8)
    assert np.quantile(images.numpy(), quantiles) == pytest.approx(np.quantile(normalized, quantiles), abs=0.15)


def test_an_interrupted_training_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(fit.time, "monotonic", iter(range(0, 10_000, 61)).__next__)  # a checkpoint after each batch
    budget, state, done = fit.Budget(batches=4, cycles=2), tmp_path / "state.pt", []
    network = torch.nn.Linear(1, 1)

    def loss_at(strength):
        if len(done) == 3:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(strength)
        return network(torch.ones(1, 1)).sum()

    with pytest.raises(KeyboardInterrupt):
        fit.fit(network, loss_at, budget, state)
    trained = network.weight.item()
    network = torch.nn.Linear(1, 1)
    first, last = fit.fit(network, loss_at, budget, state)
    assert done == [1.0, 1.0, 1.0, "interrupted", 1.0]
    assert last.weight.item() < trained < first.weight.item()  # the loss falls with the weight
    assert not state.exists()


def test_the_rate_rises_and_falls_in_each_cycle():
    budget = fit.Budget(batches=100, learning_rate=1.0, cycles=2)
    assert budget.rate(0.0) == pytest.approx(0.05)
    assert budget.rate(0.25) == pytest.approx(0.5)
    assert budget.rate(0.5) == pytest.approx(0.05)
    assert budget.rate(0.999) == pytest.approx(0, abs=1e-4)


def test_bias_fields_are_legendre_polynomials():
    coefficients = torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    axes = [np.linspace(-1, 1, n) for n in (5, 4, 3)]
    expected = [legendre.leggrid3d(*axes, c.numpy()) for c in coefficients]
    np.testing.assert_allclose(augmentation.legendre_field(coefficients, (5, 4, 3)), expected, rtol=1e-5)
