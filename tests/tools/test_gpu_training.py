"""The phantoms of the GPU training follow the distribution of the package's phantoms."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_pdddpm.data.phantom_distribution import make_phantom_scan

TOOL = Path(__file__).parents[2] / "tools" / "gpu_training"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL))
    yield
    for name in ("fields", "phantoms", "augmentation", "train"):
        sys.modules.pop(name, None)


def test_phantoms_follow_the_same_distribution(tool):
    import phantoms

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


@pytest.mark.slow
def test_one_batch_of_each_training(tool, tmp_path):
    import train

    few = ["--task", "phantom", "--work", str(tmp_path), "--batches", "1", "--batch_size", "1"]
    train.main(["segmenter", *few])
    train.main(["denoiser", *few])
    weights = torch.load(tmp_path / "phantom_denoiser.pt", weights_only=True)
    assert set(weights) == set(train.bundle_network("phantom").denoiser.state_dict())
    assert all(x.dtype == torch.float16 for x in weights.values())
