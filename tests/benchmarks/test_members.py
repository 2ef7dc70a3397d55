"""The table of the hippocampus bundle's members, on made-up scans."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from benchmarks.trust import members as script


@pytest.mark.slow
def test_the_script_runs(tmp_path, capsys):
    rng, cases = np.random.default_rng(0), []
    for number in range(1, 5):
        label = np.zeros((40, 48, 32), np.uint8)
        label[12:24, 16:24, 12:20], label[12:24, 24:32, 12:20] = 1, 2
        image = 100.0 * (label > 0) + rng.normal(200, 20, label.shape)
        for name, values in (("image", image.astype(np.float32)), ("label", label)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}_{number:03d}.nii.gz")
        cases.append({"image": f"image_{number:03d}.nii.gz", "label": f"label_{number:03d}.nii.gz"})
    (tmp_path / "dataset.json").write_text(json.dumps({"training": cases[:2], "validation": cases[2:]}))
    command = ["--dataset_dir", str(tmp_path), "--members", "2", "--output_dir", str(tmp_path / "out")]
    script.main([*command, "--settings", "{}", '{"num_steps": 1}'])
    found = json.loads((tmp_path / "out" / "results_members.json").read_text())
    assert found["cases"] == 2
    assert list(found["rows"]) == ["pre-segmentation", "as shipped", '{"num_steps": 1}']
    assert found["rows"]["as shipped"]["disagreement"]["n"] == 2
    # one call at the start: the members are nearly the posterior mean
    assert (
        found["rows"]['{"num_steps": 1}']["disagreement"]["mean"] < found["rows"]["as shipped"]["disagreement"]["mean"]
    )
    assert "| as shipped |" in capsys.readouterr().out

    # the true labels as pre-segmentations
    files = tmp_path / "presegmentations"
    files.mkdir()
    for number in (3, 4):
        shutil.copy(tmp_path / f"label_{number:03d}.nii.gz", files / f"image_{number:03d}.nii.gz")
    script.main([*command, "--presegmentation_dir", str(files)])
    row = json.loads((tmp_path / "out" / "results_members.json").read_text())["rows"]["pre-segmentation"]
    assert (row["dice"]["mean"], row["ged"]["mean"]) == (1, 0)
