"""Only the largest connected part of each structure stays."""

from types import SimpleNamespace

import torch
from monai.data import MetaTensor

from monai_pdddpm.transforms import LargestComponentd

DRAWN = torch.tensor(
    [
        [1, 1, 0, 0, 2],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 2, 2],
        [0, 0, 0, 0, 0],
        [1, 1, 0, 2, 0],
    ],
    dtype=torch.uint8,
)
KEPT = torch.tensor(  # parts that touch at a corner are connected
    [
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 2, 2],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    dtype=torch.uint8,
)


def test_drawn_picture():
    data = {"seg": MetaTensor(DRAWN[None, ..., None], affine=2 * torch.eye(4)), "other": DRAWN}
    found = LargestComponentd("seg")(data)
    assert torch.equal(found["seg"][0, ..., 0].as_tensor(), KEPT)
    assert found["seg"].dtype == torch.uint8
    assert found["seg"].affine[0, 0] == 2
    assert torch.equal(data["seg"][0, ..., 0].as_tensor(), DRAWN)
    assert found["other"] is DRAWN


def test_frames_are_not_connected():
    frames = torch.zeros(1, 3, 3, 1, 2, dtype=torch.uint8)
    frames[0, 0, 0, 0] = 1  # the same voxel in both frames, one voxel larger in the second
    frames[0, 2, 1:, 0, 0] = 1
    frames[0, 0, 1, 0, 1] = 1
    found = LargestComponentd("seg")({"seg": frames, "ensemble_run": SimpleNamespace(frames=2)})["seg"]
    assert found[0, ..., 0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert found[0, ..., 0, 1].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_slices_are_connected():
    scan = torch.tensor([[1, 1], [0, 1], [1, 1]]).view(1, 3, 1, 2)  # two parts in the first slice, one in the scan
    assert torch.equal(LargestComponentd("seg")({"seg": scan})["seg"], scan)


def test_turned_off_and_empty():
    data = {"seg": DRAWN[None]}
    assert LargestComponentd("seg", keep=False)(data)["seg"] is data["seg"]
    assert not LargestComponentd("seg")({"seg": torch.zeros(1, 2, 2, 2)})["seg"].any()


def test_other_labels_within_the_box_of_a_label_stay():
    scan = torch.tensor([[1, 0, 1, 1], [0, 2, 0, 0], [3, 0, 1, 1]]).view(1, 3, 4, 1)
    found = LargestComponentd("seg")({"seg": scan})["seg"]
    assert found[0, ..., 0].tolist() == [[0, 0, 1, 1], [0, 2, 0, 0], [3, 0, 0, 0]]
