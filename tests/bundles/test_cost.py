"""What a bundle costs may not grow unnoticed: exact counts, which no busy machine can blur."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
COSTS = json.loads((Path(__file__).parent / "costs.json").read_text(encoding="utf-8"))


def million_flops(work, *tensors):
    """Count a call's operations, two for a multiplication with its sum."""
    with FlopCounterMode(display=False) as counter:
        work(*tensors)
    return round(counter.get_total_flops() / 1e6, 1)


def costs(bundle):
    """Count a bundle's parameters, operations for one window, and calls of the denoiser for one member."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    network, roi = parser.get_parsed_content("network_def"), parser["roi_size"]
    network.to("meta")
    image = torch.empty(1, network.denoiser.image_channels, *roi, device="meta")
    presegmentation = torch.empty(1, network.denoiser.num_classes, *roi, device="meta")
    with torch.no_grad():
        features = network.denoiser.encode(image, presegmentation)
        time = torch.zeros(1, device="meta")
        return {
            "segmenter_parameters": sum(p.numel() for p in network.segmenter.parameters()),
            "denoiser_parameters": sum(p.numel() for p in network.denoiser.parameters()),
            "segment_mflop": million_flops(network.segmenter, image),
            "encode_mflop": million_flops(network.denoiser.encode, image, presegmentation),
            "denoise_mflop": million_flops(network.denoiser.denoise, presegmentation, time, features),
            "members": parser.get_parsed_content("members"),
            "denoiser_calls_of_a_member": len(parser.get_parsed_content("time_steps")),
        }


@pytest.mark.parametrize("bundle", sorted(path.name for path in BUNDLES.iterdir()))
def test_cost_is_the_one_on_record(bundle):
    # changed on purpose? write the new counts into costs.json
    assert costs(BUNDLES / bundle) == COSTS[bundle]
