import itk
import nibabel as nib
import numpy as np
import pytest
from pdddpm_label.annotations import check_annotations, read_pairs

from monai_pdddpm.utils.errors import UserError

LABELS = {0: "background", 1: "body", 2: "core"}
AFFINE = np.array([[1.5, 0.1, 0, -20], [-0.1, 1.5, 0, 5], [0, 0, 2, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def make(tmp_path):
    def pair(values, *, names=(), affine=AFFINE, shape=(6, 5, 4), dtype=np.uint8):
        scan, label = np.zeros((6, 5, 4), np.float32), np.zeros(shape, dtype)
        scan[0] = 1
        label.flat[: len(values)] = values
        nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "scan.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
        return {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "label.nii.gz"), "names": list(names)}

    return pair


def test_known_labels_pass(make):
    check_annotations([make([1, 2]), make([2], names=["Body", "core"]), make([])], LABELS)


def test_unknown_label_is_refused_with_case_found_and_expected(make):
    with pytest.raises(
        UserError, match=r"^scan: .* 3 \(edema\) in the annotation, expected 0 \(background\), 1 \(body\), 2 \(core\);"
    ):
        check_annotations([make([1, 3], names=["body", "core", "edema"])], LABELS)
    with pytest.raises(UserError, match=r"label\.nii\.gz: found the label values 3, expected whole numbers"):
        check_annotations([make([1, 3])], LABELS)


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1.5, "1.5")])
def test_values_that_are_no_whole_numbers_are_refused(make, value, found):
    for names in ((), ("body", "core")):
        with pytest.raises(UserError, match=rf"found the label values {found}, expected whole numbers from 0 to 2"):
            check_annotations([make([1, value], names=names, dtype=np.float32)], LABELS)


def test_values_that_training_rounds_pass(make):
    check_annotations([make([1.0005, 2], names=["body", "core"], dtype=np.float32)], LABELS)
    with pytest.raises(UserError, match=r"found the label 1 \(core\) in"):
        check_annotations([make([1.0005], names=["core", "body"], dtype=np.float32)], LABELS)


def test_segments_in_another_order_are_refused(make):
    with pytest.raises(UserError, match=r"label 1 \(core\), 2 \(body\)"):
        check_annotations([make([1, 2], names=["core", "body"])], LABELS)


def test_another_grid_is_refused(make):
    moved = AFFINE.copy()
    moved[0, 3] += 3
    with pytest.raises(UserError, match=r"label\.nii\.gz: found labels 2 voxels away from their scan"):
        check_annotations([make([1], affine=moved)], LABELS)
    with pytest.raises(UserError, match="found labels of 6 x 5 x 5 voxels, expected the 6 x 5 x 4 of their scan"):
        check_annotations([make([1], shape=(6, 5, 5))], LABELS)


def test_nrrd_as_slicer_writes_it_is_read(make, tmp_path):
    pair = make([1, 2])
    itk.imwrite(itk.imread(pair["label"], itk.UC), str(tmp_path / "label.seg.nrrd"))
    check_annotations([pair | {"label": str(tmp_path / "label.seg.nrrd")}], LABELS)


def test_pairs_of_a_datastore():
    class Store:
        def datalist(self):
            return [{"image": f"/d/{name}.nii.gz", "label": f"/d/labels/final/{name}.nii.gz"} for name in "ba"]

        def get_label_info(self, label, tag):
            assert tag == "final"
            return {"label_info": [{"name": "body", "idx": 1}]} if label == "b" else {}

    assert [(pair["image"], pair["names"]) for pair in read_pairs(Store())] == [
        ("/d/a.nii.gz", []),
        ("/d/b.nii.gz", ["body"]),
    ]
