"""Softened label maps: known values at known distances, and the same likeliest class everywhere."""

import numpy as np
import torch

from monai_pdddpm.transforms.softening import SOFTNESS, softened


def test_logistic_function_of_the_distance_to_a_plane():
    classes = torch.zeros(20, 3, 3, dtype=torch.int64)
    classes[10:] = 1
    found = softened(classes, 2)[1, :, 1, 1].numpy()
    distance = np.arange(20) - 9.5  # the border lies between two voxels
    expected = 1 / (1 + np.exp(-2 * distance.clip(-7 * 0.65, 7 * 0.65) / 0.65))
    assert np.allclose(found, expected, rtol=1e-3, atol=0)


def test_distances_are_in_mean_voxels():
    classes = torch.zeros(20, 20, 20, dtype=torch.int64)
    classes[10:] = 1
    thick, equal = softened(classes, 2, (4.0, 1.0, 1.0))[1, 10, 5, 5], softened(classes, 2)[1, 10, 5, 5]
    distance = {4: (4 - 0.5) / 4 ** (1 / 3), 1: 0.5}
    for found, size in ((thick, 4), (equal, 1)):
        assert np.isclose(float(found), 1 / (1 + np.exp(-2 * distance[size] / SOFTNESS)), atol=1e-5)


def test_fine_axes_are_softened_as_far_as_thick_ones():
    classes = torch.zeros(1, 101, 1, dtype=torch.int64)
    classes[0, 50] = 1
    found = softened(classes, 2, (4.0, 0.25, 1.0))[1, 0, :, 0].numpy()  # the mean edge is 1 mm
    outside = np.abs(np.arange(101) - 50) * 0.25 - 0.125
    signed = np.where(outside > 0, outside, -0.125)
    expected = 1 / (1 + np.exp(2 * signed.clip(-7 * SOFTNESS, 7 * SOFTNESS) / SOFTNESS))
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_every_voxel_keeps_its_class():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        classes = torch.randint(0, 4, (9, 8, 7), generator=generator)
        classes[classes == 3] = 0  # class 3 is absent
        classes[4, 4, 4] = 2
        found = softened(classes, 4, (1.0, 2.0, 0.5))
        assert torch.equal(found.argmax(dim=0), classes)
        assert torch.allclose(found.sum(dim=0), torch.ones(9, 8, 7))
        assert float(found[3].max()) < 2e-3


def test_nothing_and_everything():
    for value in (0, 1):
        found = softened(torch.full((4, 4, 4), value), 2)
        assert np.allclose(found[value].numpy(), 1 / (1 + np.exp(-14)), rtol=0, atol=2e-7)
