"""Where scans may lie, and where the command may be typed."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

SHORT = {"members": 1, "num_steps": 1, "roi_size": [24, 24, 24]}
LISTED = "['$print(*sorted(case[\\'image\\'] for case in @data), sep=chr(10))', '$print(@model_file, @output_dir)']"


def finished(folder):
    return sorted(path.parent.name for path in folder.glob("*/*_report.json"))


def test_folder_of_scans_from_elsewhere(command, bundle, phantom, tmp_path):
    scans, elsewhere = tmp_path / "scans", tmp_path / "elsewhere"
    shutil.copytree(phantom / "imagesTs", scans)
    elsewhere.mkdir()
    # what lies about in such folders
    (scans / "._phantom_006.nii.gz").write_bytes(b"\0\5\26\7")
    (scans / "notes.txt").write_text("")
    (scans / "more").mkdir()
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": "../scans", "output_dir": "results"}
    done = command("run", "inference", cwd=elsewhere, **options, **SHORT)
    assert done.code == 0, done
    assert finished(elsewhere / "results") == ["phantom_006", "phantom_007"]
    assert [path.name for path in elsewhere.iterdir()] == ["results"]


def test_one_scan_from_within_the_bundle(command, copy_bundle, phantom):
    bundle = copy_bundle()
    scan = phantom / "imagesTs" / "phantom_006.nii.gz"
    options = {"config_file": "configs/inference.json", "dataset_dir": scan}
    done = command("run", "inference", cwd=bundle, **options, **SHORT)
    assert done.code == 0, done
    assert finished(bundle / "output") == ["phantom_006"]
    assert not (bundle / "data").exists()


def test_decathlon_folder_from_the_root_of_the_repository(command, copy_bundle, phantom, tmp_path):
    bundle = copy_bundle(into=tmp_path / "bundles")
    config = "bundles/phantom_segmentation/configs/inference.json"
    done = command("run", "inference", cwd=tmp_path, config_file=config, dataset_dir=phantom, **SHORT)
    assert done.code == 0, done
    assert finished(bundle / "output") == ["phantom_006", "phantom_007"]
    # of a list, the command looks into the sections that hold cases
    options = {"config_file": config, "dataset_dir": phantom, "output_dir": tmp_path / "other", "run": LISTED}
    done = command("run", cwd=tmp_path, data_list_key="validation", **options)
    assert done.code == 0, done
    listed = [f"{phantom}/imagesTr/phantom_00{number}.nii.gz" for number in (4, 5)]
    assert done.out.splitlines()[-3:] == [*listed, f"{bundle}/models/model.pt {tmp_path / 'other'}"]


def test_phantom_is_made_where_no_data_are_named(command, copy_bundle, tmp_path):
    bundle = copy_bundle(into=tmp_path / "bundles")
    config = "bundles/phantom_segmentation/configs/inference.json"
    listed = f"['@run::0', {LISTED[1:]}"
    for _ in range(2):
        done = command("run", "listed", cwd=tmp_path, config_file=config, listed=listed)
        assert done.code == 0, done
        scans = [bundle / "data" / "imagesTs" / f"phantom_{number:03d}.nii.gz" for number in range(60, 66)]
        assert done.out.splitlines()[-7:] == [*map(str, scans), f"{bundle}/models/model.pt {bundle}/output"]
    assert "writing the synthetic phantom" not in done.out  # the second time it is there
    content = json.loads((bundle / "data" / "dataset.json").read_text())
    assert [len(content[key]) for key in ("training", "validation", "test")] == [48, 12, 6]
    assert nib.load(scans[0]).shape == (48, 56, 40)


def test_scan_larger_than_the_window_and_scan_thinner_than_a_network_takes(command, bundle, tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("large", (50, 30, 20)), ("thin", (20, 20, 1))):
        scan = nib.Nifti1Image(rng.normal(size=shape).astype(np.float32), np.eye(4))
        nib.save(scan, tmp_path / f"{name}.nii.gz")
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": tmp_path}
    done = command("run", "inference", **options, output_dir=tmp_path / "output", **SHORT)
    assert done.code == 0, done
    for name, shape, windows in (("large", (50, 30, 20), 8), ("thin", (20, 20, 1), 1)):
        folder = tmp_path / "output" / name
        assert nib.load(folder / f"{name}_seg.nii.gz").shape == shape
        assert nib.load(folder / f"{name}_prob.nii.gz").shape == (*shape, 3)
        assert json.loads((folder / f"{name}_report.json").read_text())["inference"]["windows_run"] == windows
