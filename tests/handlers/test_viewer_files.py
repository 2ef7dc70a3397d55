"""Files for viewers: which files a case gets, and that they agree."""

from types import SimpleNamespace
from urllib.parse import unquote
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.dicom_seg import segment_codes
from monai_pdddpm.handlers.viewer_files import write_viewer_files
from monai_pdddpm.utils.chosen_outputs import chosen_outputs, is_case_file

LABELS = {1: "lung", 2: "heart"}
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
SHAPE = (4, 5, 6)


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scans" / "case.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE), path)
    return path


def item(scan, frames=1, channels=1, files=None):
    seg = torch.zeros(1, *SHAPE) if frames == 1 else torch.zeros(1, *SHAPE, frames)
    seg[0, 1, 2, 3] = 2 if frames == 1 else torch.arange(frames) % 3
    meta = {"filename_or_obj": str(scan), "case": Case("case", tuple(files or [str(scan)]))}
    image = MetaTensor(torch.zeros(channels, *SHAPE), meta=meta)
    seg = MetaTensor(seg, affine=torch.as_tensor(AFFINE))
    return {"image": image, "seg": seg, "ensemble_run": SimpleNamespace(frames=frames)}


def write(folder, item, outputs="default", values=(0, 1, 2), dicom_codes=None):
    for name in ("entropy", "mutual-information"):  # written before the handler
        (folder / "case").mkdir(parents=True, exist_ok=True)
        (folder / "case" / f"case_{name}.nii.gz").write_bytes(b"")
    codes = segment_codes(LABELS, dicom_codes)
    write_viewer_files(item, folder / "case", chosen_outputs(outputs), LABELS, values, codes)
    assert all(map(is_case_file, (folder / "case").iterdir()))
    names = {path.name for path in (folder / "case").iterdir()}
    return names - {"case_entropy.nii.gz", "case_mutual-information.nii.gz"}


def scene_files(folder):
    root = ElementTree.parse(folder / "case" / "case_scene.mrml").getroot()
    return [unquote(node.get("fileName")) for node in root if node.get("fileName")]


TABLES = {"case_seg.ctbl", "case_seg_itksnap.txt", "case_scene.mrml"}
MAPS = ["case_entropy.nii.gz", "case_mutual-information.nii.gz"]


def test_tables_and_scene_by_default(tmp_path, scan):
    assert write(tmp_path / "out", item(scan)) == TABLES
    assert scene_files(tmp_path / "out") == ["../../scans/case.nii.gz", *MAPS, "case_seg.ctbl", "case_seg.nii.gz"]
    assert (tmp_path / "out" / "case" / "../../scans/case.nii.gz").resolve() == scan


def test_scene_finds_the_scan_from_an_output_folder_that_is_a_link(tmp_path, scan, monkeypatch):
    disk, out = tmp_path / "other" / "disk" / "results", tmp_path / "out"
    disk.mkdir(parents=True)
    out.symlink_to(disk)
    stored = scan.rename(scan.with_name("stored"))
    scan.symlink_to(stored)  # keeps its name
    monkeypatch.chdir(tmp_path)
    for path in (scan, scan.relative_to(tmp_path)):
        write(out, item(path))
        (first, *_) = scene_files(out)
        assert first == "../../../../scans/case.nii.gz"
        assert (disk / "case" / first).samefile(scan)


def test_scene_shows_the_segmentation_if_there_is_one(tmp_path, scan):
    assert write(tmp_path / "out", item(scan), outputs="scene,seg-nrrd") == TABLES | {"case_seg.seg.nrrd"}
    assert scene_files(tmp_path / "out") == ["../../scans/case.nii.gz", *MAPS, "case_seg.seg.nrrd"]
    image = sitk.ReadImage(str(tmp_path / "out" / "case" / "case_seg.seg.nrrd"))
    assert image[1, 2, 3] == 2
    assert sitk.GetArrayFromImage(image).sum() == 2


def test_nothing_when_turned_off(tmp_path, scan):
    assert write(tmp_path / "out", item(scan), outputs="seg") == set()


def test_time_series_has_a_segmentation_for_each_frame_and_no_scene(tmp_path, scan):
    frames = 11
    names = write(tmp_path / "out", item(scan, frames=frames, channels=frames), outputs="scene,seg-nrrd")
    each = [f"case_seg_frame-{t:02d}.seg.nrrd" for t in range(frames)]
    assert names == TABLES - {"case_scene.mrml"} | set(each)
    values = [sitk.ReadImage(str(tmp_path / "out" / "case" / name))[1, 2, 3] for name in each]
    assert values == [t % 3 for t in range(frames)]


def test_scene_leaves_out_a_4d_scan_and_takes_the_first_file_of_a_list(tmp_path, scan):
    write(tmp_path / "four", item(scan, channels=2))
    assert scene_files(tmp_path / "four")[:2] == MAPS
    write(tmp_path / "list", item(scan, channels=2, files=[None, str(scan)]))
    assert scene_files(tmp_path / "list")[0] == "../../scans/case.nii.gz"


def test_scene_leaves_out_a_dicom_series(tmp_path):
    series = tmp_path / "case"
    series.mkdir()
    write(tmp_path / "out", item(series))
    assert scene_files(tmp_path / "out")[:2] == MAPS


def test_label_values_of_the_data_set(tmp_path, scan):
    codes = {"2": {"type": ["80891009", "SCT", "Heart"]}}
    write(tmp_path / "out", item(scan), outputs="scene,seg-nrrd", values=[0, 3, 7], dicom_codes=codes)
    image = sitk.ReadImage(str(tmp_path / "out" / "case" / "case_seg.seg.nrrd"))
    assert image[1, 2, 3] == 7
    assert image.GetMetaData("Segment1_LabelValue") == "7"
    assert "80891009" in image.GetMetaData("Segment1_Tags")
    assert "7 heart 86 180 233 255" in (tmp_path / "out" / "case" / "case_seg.ctbl").read_text()
