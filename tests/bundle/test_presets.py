"""The presets fit every bundle, and are faithful to their papers."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_pdddpm.schedulers import AncestralRule

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "configs" / "presets" / "pd_ddpm_2022"
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))


def read(bundle, template, preset):
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / template, preset])
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    return parser


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_pd_ddpm_2022_is_the_papers(bundle):
    parser = read(bundle, "inference.json", PRESET / "inference.json")
    inferer, network = parser.get_parsed_content("inferer"), parser.get_parsed_content("network_def")
    assert inferer.config.time_steps == tuple(range(299, -1, -1))
    assert inferer.config.rule == AncestralRule("fixed_large")
    assert inferer.config.members == 5
    assert inferer.config.presegmentation_weight == inferer.config.large_scale_noise == 0
    assert inferer.config.windows == "all"
    assert (network.low, network.high, network.prediction) == (0, 1, "eps")
    assert len(network.abar) == 1000
    # cosine schedule: what is left of a mask at the start
    assert network.abar[299].item() == pytest.approx(0.787, abs=1e-3)
    # the denoiser does not see the presegmentation
    denoiser = network.denoiser
    image, size = torch.randn(1, denoiser.image_channels, 16, 16, 16), (1, denoiser.num_classes, 16, 16, 16)
    features = [network.encode(image, presegmentation) for presegmentation in (torch.zeros(size), torch.ones(size))]
    assert all(torch.equal(a, b) for a, b in zip(*features, strict=True))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_pd_ddpm_2022_trains_as_the_paper(bundle):
    parser = read(bundle, "train.json", PRESET / "train.json")
    assert parser.get_parsed_content("trained_steps") == list(range(999, -1, -1))
    assert parser["train"]["inferer"]["dense_fraction"] == 0  # t is uniform
    loss = parser.get_parsed_content("loss")
    assert loss.prediction == "eps"
    assert "corruption" not in parser.config or parser["corruption"] is None
    assert parser["learning_rate"] == 1e-4
    assert parser["optimizer"]["weight_decay"] == 0
    assert parser["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert parser["batch_size"] == 4
    assert parser["ema"]["momentum"] == pytest.approx(1 - 0.9999)
    assert parser["training_process"] == "ddpm"
