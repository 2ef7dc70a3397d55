"""The cost that is told without torch is the one that torch counts."""

import pytest
from monai.networks.nets import SegResNet

from monai_pdddpm.cli.cost import denoiser_parameters, segmenter_parameters, window_count
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import ODEUNet


def size(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"init_filters": 8, "in_channels": 1, "out_channels": 2},
        {"init_filters": 16, "in_channels": 4, "out_channels": 3, "blocks_down": [1, 2, 4], "blocks_up": [1, 1]},
    ],
)
def test_segmenter(options):
    assert segmenter_parameters({"_target_": "SegResNet"} | options) == size(SegResNet(**options))
    assert segmenter_parameters({"_target_": "UNet"} | options) is None
    assert segmenter_parameters({"_target_": "SegResNet", "norm": "batch"} | options) is None


@pytest.mark.parametrize(
    "options",
    [
        {"image_channels": 1, "num_classes": 2},
        {
            "image_channels": 4,
            "num_classes": 3,
            "presegmentation_channels": 3,
            "channels": [16, 32],
            "stem_channels": 8,
        },
    ],
)
def test_denoiser(options):
    options = {"spatial_dims": 3} | options
    assert denoiser_parameters({"_target_": "monai_pdddpm.networks.ODEUNet"} | options) == size(ODEUNet(**options))
    assert denoiser_parameters({"_target_": "monai_pdddpm.networks.ODEUNet", "attention": True} | options) is None


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("volume", [(20, 10, 33), (8, 16, 9), (40, 17, 16)])
def test_windows(volume, overlap):
    window = (8, 16, 10)
    padded = [max(n, w) for n, w in zip(volume, window, strict=True)]
    assert window_count(volume, window, overlap) == len(WindowPlan(padded, window, overlap))
