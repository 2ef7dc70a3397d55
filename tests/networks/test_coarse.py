"""From coarse to fine: which states are seen on which grid, and with what answer."""

import pytest
import torch
from torch.nn import functional as F

from monai_pdddpm.networks import CoarseODEUNet, ODEUNet

SETTINGS = {
    "spatial_dims": 3,
    "image_channels": 1,
    "num_classes": 2,
    "presegmentation_channels": 2,
    "channels": (8, 8),
    "stem_channels": 8,
    "embedding_channels": 8,
}


def pair(coarse_from=500):
    torch.manual_seed(0)
    plain = ODEUNet(**SETTINGS).eval()
    coarse = CoarseODEUNet(coarse_from=coarse_from, **SETTINGS).eval()
    coarse.load_state_dict(plain.state_dict())
    return plain, coarse


def inputs(batch=2, size=(16, 16, 24)):
    torch.manual_seed(1)
    return torch.randn(batch, 2, *size), torch.randn(1, 1, *size), torch.rand(1, 2, *size)


@torch.no_grad()
def test_early_times_are_seen_as_ever():
    plain, coarse = pair()
    assert CoarseODEUNet(**SETTINGS).coarse_from == 800
    x_t, image, presegmentation = inputs()
    t = torch.tensor([499])
    expected = plain.denoise(x_t, t, plain.encode(image, presegmentation))
    assert torch.equal(coarse.denoise(x_t, t, coarse.encode(image, presegmentation)), expected)


@torch.no_grad()
def test_late_times_are_seen_on_half_the_grid():
    plain, coarse = pair()
    x_t, image, presegmentation = inputs()
    t, half = torch.tensor([500]), slice(1, None, 2)
    small = plain.encode(F.avg_pool3d(image, 2), F.avg_pool3d(presegmentation, 2))
    expected = F.interpolate(plain.denoise(x_t[:, :, half, half, half], t, small), x_t.shape[2:], mode="trilinear")
    found = coarse.denoise(x_t, t, coarse.encode(image, presegmentation))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("conditions", [1, 2])
def test_a_batch_of_several_times_is_answered_case_by_case(conditions):
    _, coarse = pair()
    x_t, image, presegmentation = inputs(2)
    image = torch.randn(conditions, *image.shape[1:])
    features = coarse.encode(image, presegmentation.expand(conditions, *presegmentation.shape[1:]))
    t = torch.tensor([500, 499])
    found = coarse.denoise(x_t, t, features)
    for i in range(2):
        own = [f[i : i + 1] if conditions > 1 else f for f in features]
        torch.testing.assert_close(found[i : i + 1], coarse.denoise(x_t[i : i + 1], t[i : i + 1], own))


def test_half_a_size_is_rounded_up_to_what_the_network_takes():
    _, coarse = pair()
    assert coarse.divisor == 4
    assert coarse.coarse_size((40, 56, 12)) == [20, 28, 8]
