"""The shipped networks compute what they computed when they were measured."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_pdddpm.networks.weights import load_weights, read_weights

BUNDLES = Path(__file__).parents[2] / "bundles"


def field(*shape):
    """Return a smooth field that follows from its shape alone."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).mul(0.37).sin().view(shape)


def numbers(name, size=(16, 16, 16)):
    """Return output values of the denoiser at two times, and of the segmenter."""
    parser = ConfigParser()
    parser.read_config(BUNDLES / name / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def").eval()
    file = BUNDLES / name / "models" / "model.pt"
    load_weights(network, read_weights(file), file)
    k, channels = network.num_classes, network.denoiser.image_channels
    image, state = field(1, channels, *size), field(1, k, *size).flip(-1)
    with torch.no_grad():
        features = network.encode(image, network.prepare_presegmentation(network.segment(image)))
        outputs = [network.denoise(state, torch.tensor([t]), features) for t in (900, 300)]
        outputs.append(network.segment(image))
    return torch.stack([value for out in outputs for value in (out.std(), out[0, 0, 3, 5, 7], out[0, -1, 9, 2, 11])])


# of each output: standard deviation, and two voxels; denoiser at t = 900 and 300, segmenter
GOLDEN = {
    "hippocampus_mri_segmentation": [6.6426, 2.1246, -6.5822, 5.7120, 2.6546, -0.4015, 0.4713, 1.0, 0.0],
    "ms_lesion_mri_segmentation": [3.6637, 4.0909, -1.9002, 3.6614, 4.0726, -1.8778, 0.4860, 0.9923, 0.0276],
    "phantom_segmentation": [9.0750, 16.5127, -4.0929, 9.5142, 8.6574, 1.5072, 0.4461, 0.2166, 0.0069],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name):
    torch.testing.assert_close(numbers(name), torch.tensor(GOLDEN[name]), rtol=1e-3, atol=1e-3)
