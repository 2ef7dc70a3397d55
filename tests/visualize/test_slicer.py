"""Files for viewers have the names, colors, codes and geometry of the case."""

import math
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_pdddpm.data.dicom_seg import segment_codes
from monai_pdddpm.visualize.slicer import (
    color_table,
    scene,
    snap_labels,
    write_seg_nrrd,
)

LABELS = {1: "left  lung", 3: 'the "core"'}
SHAPE = (5, 6, 7)
CODES = {"1": {"type": ["39607008", "SCT", "Lung ^~| structure"]}}


def label_map():
    volume = np.zeros(SHAPE, np.int64)
    volume[1:3, 2:5, 3] = 1
    volume[4, 0, 6] = 3
    return volume


def oblique():
    """Return an affine that turns, flips and scales each axis differently."""
    turn = nib.eulerangles.euler2mat(0.3, -0.2, 0.1)
    return nib.affines.from_matvec(turn @ np.diag([-0.7, 1.2, 2.5]), [12.5, -30.25, 400.0])


def header(path):
    """Return the fields of an NRRD header, read by the specification."""
    text = path.read_bytes().split(b"\n\n", 1)[0].decode("utf-8")
    lines = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    return dict(line.split(":=" if ":=" in line else ": ", 1) for line in lines)


def write(path, volume, affine=None, labels=LABELS):
    write_seg_nrrd(
        path, volume, np.eye(4) if affine is None else affine, labels, segment_codes(labels, CODES if labels else None)
    )


def test_color_table_as_slicer_reads_it():
    table = color_table(LABELS)
    assert table.splitlines() == [
        "# Color table file",
        "# 3 values",
        "0 background 0 0 0 0",
        "1 left_lung 230 159 0 255",
        '3 the_"core" 86 180 233 255',
    ]
    # Slicer splits at spaces and removes quotes
    assert [len(line.split()) for line in color_table({1: "a 'b' \n c"}).splitlines()[2:]] == [6, 6]


def test_snap_labels_as_itk_snap_reads_them():
    lines = [line for line in snap_labels(LABELS).splitlines() if not line.startswith("#")]
    assert [line.split('"')[0].split() for line in lines] == [
        ["0", "0", "0", "0", "0", "0", "0"],
        ["1", "230", "159", "0", "1", "1", "1"],
        ["3", "86", "180", "233", "1", "1", "1"],
    ]
    assert [line.split('"')[1] for line in lines] == ["Clear Label", "left lung", "the 'core'"]


@pytest.mark.parametrize("sheared", [False, True])
def test_seg_nrrd_has_the_geometry_of_the_nifti(tmp_path, sheared):
    affine = oblique()
    if sheared:
        affine[:3, 1] += 0.2 * affine[:3, 0]
    path = tmp_path / "case_seg.seg.nrrd"
    write(path, label_map(), affine)

    image = sitk.ReadImage(str(path))

    assert np.array_equal(sitk.GetArrayFromImage(image).T, label_map())
    assert image.GetPixelID() == sitk.sitkUInt8
    for voxel in ((0, 0, 0), (4, 0, 6), (1, 5, 2)):
        left, posterior, superior = image.TransformIndexToPhysicalPoint(voxel)
        np.testing.assert_allclose((-left, -posterior, superior), nib.affines.apply_affine(affine, voxel), atol=1e-6)
    assert header(path)["space"] == "left-posterior-superior"


def test_seg_nrrd_describes_its_segments(tmp_path):
    path = tmp_path / "case_seg.seg.nrrd"
    write(path, label_map())

    found = header(path)

    assert found["Segment0_Name"] == "left lung"
    assert found["Segment0_ID"] == "Segment_1"
    assert found["Segment0_LabelValue"] == "1"
    assert [round(255 * float(part)) for part in found["Segment0_Color"].split()] == [230, 159, 0]
    assert found["Segment0_Extent"] == "0 4 0 5 0 6"
    assert found["Segment1_Name"] == 'the "core"'
    assert found["Segment1_LabelValue"] == "3"
    context, category, kind, modifier, *anatomy = found["Segment0_Tags"].removeprefix("TerminologyEntry:").split("~")
    assert context == "Segmentation category and type - 3D Slicer General Anatomy list"
    assert category == "SCT^123037004^Anatomical Structure"
    assert kind == "SCT^39607008^Lung structure"  # without separators of the terminology
    assert modifier == "^^"
    assert anatomy == ["Anatomic codes - DICOM master list", "^^", "^^|"]
    assert "SCT^85756007^Tissue" in found["Segment1_Tags"]  # the default
    assert found["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert "Segment2_Name" not in found


def test_seg_nrrd_of_many_labels_and_of_none(tmp_path):
    path = tmp_path / "case_seg.seg.nrrd"
    write(path, label_map() * 300, labels={})
    assert sitk.ReadImage(str(path)).GetPixelID() == sitk.sitkUInt16
    write(path, np.zeros(SHAPE, np.uint8))
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(path))).any()
    assert header(path)["Segment1_LabelValue"] == "3"


CASE = "ä 'b' <c> & 100%"
MAPS = [f"{CASE}_entropy.nii.gz", f"{CASE}_mutual-information.nii.gz"]


def nodes(text):
    """Return the nodes of a scene by id, after a check that every reference exists."""
    root = ET.fromstring(text.encode("utf-8"))
    assert root.tag == "MRML"
    found = {node.get("id"): node for node in root}
    assert len(found) == len(root)
    for node in root:
        for reference in filter(None, node.get("references", "").split(";")):
            assert reference.split(":")[1] in found
    return found


def refers(node, role):
    pairs = dict(part.split(":") for part in node.get("references").split(";") if part)
    return pairs.get(role)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "out" / CASE
    made.mkdir(parents=True)
    return made


def test_scene_has_relative_paths(folder):
    scan = folder.parents[1] / "my scans" / f"{CASE}.nii.gz"
    found = nodes(scene(CASE, folder, str(scan), LABELS, MAPS, None))

    paths = [unquote(node.get("fileName")) for node in found.values() if node.get("fileName")]

    assert not any(path.startswith("/") for path in paths)
    names = [f"../../my scans/{CASE}.nii.gz", *MAPS, f"{CASE}_seg.ctbl", f"{CASE}_seg.nii.gz"]
    assert sorted(paths) == sorted(names)
    assert (folder / paths[0]).resolve() == scan
    # MRML's encoding of these characters; all others are unchanged
    raw = found["vtkMRMLVolumeArchetypeStorageNode2"].get("fileName")
    assert raw == "ä%20%27b%27%20%3Cc%3E%20&%20100%25_entropy.nii.gz"


def test_scene_shows_scan_map_and_labels_in_every_view(folder):
    found = nodes(scene(CASE, folder, str(folder / "scan.nii.gz"), LABELS, MAPS, None))

    for view in ("Red", "Green", "Yellow"):
        composite = found[f"vtkMRMLSliceCompositeNode{view}"]
        assert found[refers(composite, "backgroundVolume")].get("name") == CASE
        assert found[refers(composite, "foregroundVolume")].get("name") == f"{CASE}_entropy"
        labels = found[refers(composite, "labelVolume")]
        assert labels.tag == "LabelMapVolume"
        table = found[found[refers(labels, "display")].get("colorNodeID")]
        assert unquote(found[refers(table, "storage")].get("fileName")) == f"{CASE}_seg.ctbl"
        assert table.get("numcolors") == "4"  # of labels up to 3


def test_maps_have_the_same_window_in_all_scenes(folder):
    found = nodes(scene(CASE, folder, None, LABELS, MAPS, None))

    for number in (2, 3):
        display = found[f"vtkMRMLScalarVolumeDisplayNode{number}"]
        assert float(display.get("window")) == pytest.approx(math.log(3), abs=1e-6)
        assert float(display.get("level")) == pytest.approx(math.log(3) / 2, abs=1e-6)
        assert display.get("autoWindowLevel") == "0"
        assert display.get("colorNodeID") == "vtkMRMLColorTableNodeFileMagma.txt"


def test_scene_without_a_scan_has_the_map_in_the_background(folder):
    found = nodes(scene(CASE, folder, None, LABELS, MAPS, None))

    composite = found["vtkMRMLSliceCompositeNodeRed"]

    assert found[refers(composite, "backgroundVolume")].get("name") == f"{CASE}_entropy"
    assert refers(composite, "foregroundVolume") is None
