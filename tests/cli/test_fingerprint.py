"""Statistics of cases made by hand, and the problems that are found in them."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.cli.fingerprint import fingerprint, read_case
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.utils.errors import UserError


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def read(root, index=0):
    data = read_dataset(root)
    statistics, findings = read_case(data.labeled[index], data)
    return statistics, [finding.kind for finding in findings]


def test_statistics(decathlon):
    root = decathlon(spacing=(1, 2, 3))
    image, label = np.zeros((20, 24, 16), np.float32), np.zeros((20, 24, 16), np.uint8)
    label[:2, :3, :4] = 1
    image[label > 0] = np.arange(24)
    image[5, 5, 5] = 1000  # outside of the foreground
    # stored as left, inferior, anterior: the statistics are along right, anterior, superior
    affine = np.array([[-1, 0, 0, 0], [0, 0, 2, 0], [0, -3, 0, 0], [0, 0, 0, 1]], dtype=float)
    for folder, array in (("imagesTr", image), ("labelsTr", label)):
        save(root / folder / "case_1.nii.gz", array, affine)
    found, findings = read(root, 1)
    assert not findings
    assert (found.shape, found.spacing) == ((20, 16, 24), (1, 2, 3))
    assert found.labels == {0: 20 * 24 * 16 - 24, 1: 24}
    assert sorted(found.samples[0]) == list(range(24))
    assert found.background == ((0.0, pytest.approx(1 - 24 / (20 * 24 * 16))),)


def test_background_of_another_value(decathlon):
    root = decathlon()
    image = np.random.default_rng(0).normal(100, 5, (20, 24, 16)).astype(np.float32)
    image[:12] = -1000
    image[0, 0, 0] = 3
    save(root / "imagesTr" / "case_1.nii.gz", image)
    found, _ = read(root, 1)
    assert found.background == ((-1000.0, pytest.approx(0.6, abs=1e-3)),)


@pytest.mark.parametrize(
    "label",
    [
        np.full((20, 24, 16), 3, np.uint8),
        np.full((20, 24, 16), 0.5, np.float32),
        np.ones((20, 24, 15), np.uint8),
        np.ones((20, 24, 16, 2), np.uint8),
    ],
    ids=["unknown value", "fraction", "other grid", "two channels"],
)
def test_unusable_label_maps(decathlon, label):
    root = decathlon()
    save(root / "labelsTr" / "case_1.nii.gz", label)
    assert read(root, 1) == (None, ["label"])


def test_empty_label_map(decathlon):
    root = decathlon()
    save(root / "labelsTr" / "case_1.nii.gz", np.zeros((20, 24, 16), np.uint8))
    found, findings = read(root, 1)
    assert findings == ["label-empty"]
    assert found.labels == {0: 20 * 24 * 16}
    assert found.samples.shape == (1, 20 * 24 * 16)


def test_unreadable(decathlon):
    root = decathlon()
    for file in ("imagesTr/case_1.nii.gz", "labelsTr/case_2.nii.gz"):
        path = root / file
        path.write_bytes(path.read_bytes()[:60])
    assert [read(root, index) for index in (1, 2)] == [(None, ["unreadable"]), (None, ["label"])]
    save(root / "imagesTr" / "case_3.nii.gz", np.full((20, 24, 16), np.nan, np.float32))
    assert read(root, 3) == (None, ["unreadable"])


def test_missing_channel(nnunet):
    root = nnunet()
    (root / "imagesTr" / "box_001_0001.nii.gz").unlink()
    found, findings = read(root, 1)
    assert not findings
    assert np.isfinite(found.samples[0]).all()
    assert np.isnan(found.samples[1]).all()


def test_fingerprint(decathlon):
    root = decathlon(values=(0, 2), cases=2, spacing=(1, 1, 2))
    data = read_dataset(root)
    found = fingerprint(data, [read_case(case, data)[0] for case in data.labeled])
    json.dumps(found)
    assert "case" not in json.dumps(found["each"])
    assert found["spacing_mm"]["median"] == [1, 1, 2]
    assert found["shape"]["max"] == [20, 24, 16]
    # boxes of 5 x 10 x 8 and 5 x 9 x 8 voxels of 2 mm3
    assert found["labels"] == {
        "0": {"name": "background", "cases": 2, "median_ml": pytest.approx(14.6, abs=0.1)},
        "2": {"name": "a", "cases": 2, "median_ml": pytest.approx(0.76)},
    }
    (channel,) = found["channels"]
    assert channel["mean"] == pytest.approx(200, abs=1)  # 100 and twice 50
    assert channel["foreground_fraction"] == pytest.approx(1, abs=2e-4)


def test_nothing_labelled(decathlon):
    data = read_dataset(decathlon(cases=1))
    with pytest.raises(UserError, match="no labeled voxel"):
        fingerprint(data, [])
