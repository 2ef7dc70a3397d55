import json

import nibabel as nib
import numpy as np
import pytest

from benchmarks.trust import lesions
from monai_pdddpm.data import labelled_cases


def test_two_halves_are_the_brain_and_lie_where_it_lies(tmp_path):
    affine = np.array([[0.0, -2, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 7], [0, 0, 0, 1]])
    for name, voxels in (("image", np.arange(7 * 3 * 2 * 2).reshape(7, 3, 2, 2)), ("label", np.ones((7, 3, 2)))):
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), tmp_path / f"{name}.nii.gz")
    for name in ("other", "none"):
        nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.float32), affine), tmp_path / f"{name}.nii.gz")
    sections = {
        "training": [{"image": "image.nii.gz", "label": "label.nii.gz"}],
        "validation": [{"image": "other.nii.gz", "label": "none.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(sections))
    lesions.write_halves(tmp_path, tmp_path / "halves")
    first, other = labelled_cases(tmp_path / "halves", "training")
    second, _ = labelled_cases(tmp_path / "halves", "validation")
    whole = nib.load(tmp_path / "image.nii.gz")
    parts = [nib.load(case["image"]) for case in (first, second)]
    assert [part.shape for part in parts] == [(3, 3, 2, 2), (4, 3, 2, 2)]
    assert np.array_equal(np.concatenate([part.get_fdata() for part in parts]), whole.get_fdata())
    assert np.allclose(parts[1].affine @ [1, 2, 1, 1], whole.affine @ [4, 2, 1, 1])
    assert nib.load(other["image"]).shape == (2, 3, 2)
    assert nib.load(second["label"]).shape == (4, 3, 2)


def test_the_table_shows_each_metric_of_each_case(tmp_path):
    file = tmp_path / "evaluation_cases.csv"
    file.write_text(
        "case,method,label,dice,lesion_f1,ece,nll,error_auroc\n"
        "a,segmenter,lesion,0.5,0.25,,,\na,segmenter,near structure,,,0.125,1.5,0.75\n"
        "a,ensemble,lesion,0.625,0.5,,,\na,ensemble,near structure,,,0.25,1.25,0.875\n"
        "b,segmenter,lesion,0.25,0.125,,,\nb,segmenter,near structure,,,0.5,2.5,0.5\n"
        "b,ensemble,lesion,0.375,0.375,,,\nb,ensemble,near structure,,,0.625,2,0.625\n"
    )
    cases = lesions.read_cases(file)
    assert cases["ensemble"]["a"] == {"dice": 0.625, "lesion_f1": 0.5, "ece": 0.25, "nll": 1.25, "error_auroc": 0.875}
    found = {"narrow": {"parameters": 2_480_000, "flops": 5_570_000_000, "cases": cases}}
    text = lesions.as_markdown(found, 5)
    assert (
        "| the segmenter alone |  |  | 0.500, 0.250 | 0.250, 0.125 | 0.125, 0.500 | 1.500, 2.500 | 0.750, 0.500 |"
        in text
    )
    assert (
        "| narrow | 2.48 M | 5.6 | 0.625, 0.375 | 0.500, 0.375 | 0.250, 0.625 | 1.250, 2.000 | 0.875, 0.625 |" in text
    )


def test_the_variants_are_the_bundles_denoiser_and_others(tmp_path):
    shipped = lesions.measuring.read_bundle(lesions.BUNDLE, {})["network_def"]["denoiser"]
    assert shipped["channels"] == [32, 64, 128]
    assert shipped["upsampling"] == "linear"
    assert next(iter(lesions.VARIANTS.values())) == {}
    with pytest.raises(SystemExit, match="it failed, see"):
        lesions.run("training", "none.json", tmp_path / "log.txt")
