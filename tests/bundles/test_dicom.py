"""A DICOM series through a bundle's own command, and back as NIfTI and DICOM SEG in the same place."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest

from ..data.test_dicom_seg import COLUMNS, ROWS, SLICES, affine_ras, world_positions, write_series

pytestmark = pytest.mark.slow


def slab(plane):
    """One slice of a bright slab, as the phantom's body is beside its background."""
    return np.full((ROWS, COLUMNS), 420 if 3 <= plane < 9 else 200)


@pytest.fixture(scope="module")
def output(fresh_command, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    write_series(folder / "scans" / "first", pixels=slab)
    write_series(folder / "scans" / "mr.2", series="1.2.3", pixels=slab)  # a dot in a case's name
    # so small a scan is unlike the phantom; the segmenter itself marks a little of it, which must not hang on rounding
    options = {"members": 2, "start_step": 0, "precision": "float32"}
    options |= {"dataset_dir": folder / "scans", "output_dir": folder / "out"}
    config = bundle / "configs" / "inference.json"
    done = fresh_command("run", "inference", config_file=config, outputs="default,dicom-seg", **options)
    assert done.code == 0, done
    return folder / "out"


@pytest.mark.parametrize("case", ["first", "mr.2"])
def test_nifti_and_segmentation_object_mark_the_same_places(output, case):
    image = nib.load(output / case / f"{case}_seg.nii.gz")
    assert image.shape == (COLUMNS, ROWS, SLICES)
    seg = np.asanyarray(image.dataobj)
    assert np.unique(seg).size > 1  # the network says something of it
    # voxel by voxel where the headers of the series place it
    np.testing.assert_allclose(image.affine[:3, :3], affine_ras()[:3, :3] @ _axes(image.affine), atol=1e-4)
    found = world_positions(pydicom.dcmread(output / case / f"{case}_seg.dcm"))
    for label in set(np.unique(seg).tolist()) - {0}:
        marked = nib.affines.apply_affine(image.affine, np.argwhere(seg == label)) * [-1, -1, 1]
        ours = np.array(sorted(map(tuple, marked.round(2))))
        theirs = np.array(sorted(map(tuple, found[label].round(2))))
        assert len(ours) == len(theirs)
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def _axes(affine):
    """Which axes of the series the image's are, and whether they are turned round."""
    return np.rint(np.linalg.inv(affine_ras()[:3, :3]) @ affine[:3, :3])


@pytest.mark.parametrize("case", ["first", "mr.2"])
def test_report_names_the_folder(output, case):
    report = json.loads((output / case / f"{case}_report.json").read_text(encoding="utf-8"))
    assert report["case"] == case
    assert report["image"].endswith(case)
    assert f"{case}_overview.png" in report["files"]
    assert f"{case}_seg.dcm" in report["files"]
