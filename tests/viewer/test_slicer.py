"""A case's files for 3D Slicer, read with VTK, which Slicer is built on: names, colors, positions, display settings."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.dicom_seg import segment_codes
from monai_pdddpm.handlers.viewer_files import write_viewer_files
from monai_pdddpm.transforms import SaveImageMapsd
from monai_pdddpm.utils.atomic_write import write_json
from monai_pdddpm.visualize.colors import PALETTE, rgb

LABELS = {"0": "background", "1": "left lung", "2": "heart"}
SHAPE = (7, 6, 5)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.75, 1.25, 2.5]), [12, -30, 400]
)
MARKED = (4, 2, 3)  # the voxel of the heart, with the highest entropy
SCRIPT = Path(__file__).parents[2] / "docs" / "slicer" / "load_case.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a case with an oblique, left-handed grid."""
    top = tmp_path_factory.mktemp("slicer")
    scan = top / "scans" / "my case.nii.gz"
    scan.parent.mkdir()
    image = np.zeros(SHAPE, np.float32)
    image[MARKED] = 100
    nib.save(nib.Nifti1Image(image, AFFINE), scan)
    meta = {"filename_or_obj": str(scan), "case": Case("my case", (str(scan),))}
    seg, entropy = torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)
    seg[0, 1, 1, 1], seg[0][MARKED] = 1, 2
    entropy[0][MARKED], entropy[0, 0, 0, 0] = np.log(3), np.log(3) / 25
    affine = torch.as_tensor(AFFINE)
    item = {
        "image": MetaTensor(torch.as_tensor(image)[None], affine=affine, meta=meta),
        "seg": MetaTensor(seg, affine=affine),
        "entropy": MetaTensor(entropy, affine=affine),
        "members": MetaTensor(torch.cat([seg, seg]), affine=affine),
        "ensemble_run": SimpleNamespace(frames=1),
    }
    SaveImageMapsd(top / "out", LABELS)(item)
    names = {1: "left lung", 2: "heart"}
    outputs = ("scene", "seg-nrrd")
    write_viewer_files(item, top / "out" / "my case", outputs, names, range(3), segment_codes(names))
    return top / "out" / "my case"


@pytest.fixture(scope="module")
def vtk():
    """Return the package, or skip."""
    return pytest.importorskip("vtk")


@pytest.fixture(scope="module")
def nodes(vtk, folder):
    """Return the nodes of the scene by id, read by VTK's parser."""
    root = vtk.vtkXMLUtilities.ReadElementFromFile(str(folder / "my case_scene.mrml"))
    found = [root.GetNestedElement(number) for number in range(root.GetNumberOfNestedElements())]
    return {node.GetAttribute("id"): node for node in found}


def stored(nodes, folder, node):
    """Return the path that a node's storage node names."""
    references = dict(part.split(":") for part in node.GetAttribute("references").split(";") if part)
    return (folder / unquote(nodes[references["storage"]].GetAttribute("fileName"))).resolve()


def volume(vtk, path):
    """Return a NIfTI file as VTK's image of floats, and the RAS position of its highest value."""
    reader = vtk.vtkNIFTIImageReader()
    reader.SetFileName(str(path))
    scaled = vtk.vtkImageShiftScale()
    scaled.SetInputConnection(reader.GetOutputPort())
    reader.Update()
    scaled.SetScale(reader.GetRescaleSlope())
    scaled.SetShift(reader.GetRescaleIntercept() / reader.GetRescaleSlope())
    scaled.SetOutputScalarTypeToFloat()
    scaled.Update()
    image = scaled.GetOutput()
    place = max(np.ndindex(*image.GetDimensions()), key=lambda index: value(image, index))
    position = [0.0, 0.0, 0.0]
    image.TransformContinuousIndexToPhysicalPoint(place, position)
    return image, reader.GetSFormMatrix().MultiplyPoint((*position, 1))[:3]


def value(image, index):
    """Return the value of a voxel."""
    return image.GetScalarComponentAsFloat(*map(int, index), 0)


@pytest.mark.slow
def test_volumes_lie_where_the_scan_lies(vtk, nodes, folder):
    highest = {}
    for node in nodes.values():
        if node.GetName() == "Volume":
            image, position = volume(vtk, stored(nodes, folder, node))
            highest[node.GetAttribute("name")] = image.GetScalarRange()[1]
            np.testing.assert_allclose(position, nib.affines.apply_affine(AFFINE, MARKED), atol=1e-3)
    assert highest == {"my case": 100, "my case_entropy": pytest.approx(np.log(3), abs=1e-4)}


@pytest.mark.slow
def test_map_is_shown_from_zero_to_its_highest_value(vtk, nodes, folder):
    display = nodes["vtkMRMLScalarVolumeDisplayNode2"]
    window, level, lowest, highest = (
        float(display.GetAttribute(name)) for name in ("window", "level", "lowerThreshold", "upperThreshold")
    )
    image, _ = volume(vtk, folder / "my case_entropy.nii.gz")
    # the two filters by which Slicer turns a volume into colors
    colors = vtk.vtkImageMapToWindowLevelColors()
    colors.SetWindow(window)
    colors.SetLevel(level)
    visible = vtk.vtkImageThreshold()
    visible.ThresholdBetween(lowest, highest + 1e-4)
    visible.SetInValue(1)
    visible.SetOutValue(0)
    values = np.array([value(image, index) for index in np.ndindex(*SHAPE)])
    shown = []
    for each in (colors, visible):
        each.SetInputData(image)
        each.Update()
        output = np.array([value(each.GetOutput(), index) for index in np.ndindex(*SHAPE)])
        shown.append(output[np.argsort(values)][[0, -2, -1]].tolist())  # nothing, a 25th, the highest
    assert shown[0] == [0, pytest.approx(255 / 25, abs=1), 255]
    assert shown[1] == [0, 0, 1]  # a 25th of the highest entropy is transparent


@pytest.mark.slow
def test_segmentation_has_values_names_colors_and_position(nodes, folder):
    slicerio = pytest.importorskip("slicerio")
    path = stored(nodes, folder, nodes["vtkMRMLSegmentationNode1"])
    assert path.name == "my case_seg.seg.nrrd"
    found = slicerio.read_segmentation(str(path))
    assert [(one["name"], one["labelValue"]) for one in found["segments"]] == [("left lung", 1), ("heart", 2)]
    for one, color in zip(found["segments"], PALETTE, strict=False):
        np.testing.assert_allclose(one["color"], np.divide(rgb(color), 255), atol=1e-5)
    assert found["voxels"][MARKED] == 2
    assert found["voxels"][1, 1, 1] == 1
    assert found["voxels"].sum() == 3
    ras = np.diag([-1, -1, 1, 1]) @ found["ijkToLPS"]
    np.testing.assert_allclose(ras, AFFINE, atol=1e-5)


def test_script_loads_every_file(folder, monkeypatch):
    result = {"volume_ml": {"heart": {"segmentation": 1.0, "interval_90": [0.5, 1.5]}}}
    image = str(folder.parents[1] / "scans" / "my case.nii.gz")
    write_json(folder / "my case_report.json", {"image": image, "labels": {"1": "a", "2": "b"}, "result": result})
    loaded = []
    slicer = MagicMock()
    for name in ("loadVolume", "loadSegmentation", "loadColorTable", "loadSequence"):
        load = getattr(slicer.util, name)
        load.side_effect = lambda path, properties=None, name=name: loaded.append((name, Path(path))) or MagicMock()
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    monkeypatch.setattr(sys, "argv", ["Slicer", str(folder)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert [(name, path.name) for name, path in loaded] == [
        ("loadVolume", "my case.nii.gz"),
        ("loadVolume", "my case_entropy.nii.gz"),
        ("loadColorTable", "my case_seg.ctbl"),
        ("loadSegmentation", "my case_seg.seg.nrrd"),
        ("loadSequence", "my case_members.nii.gz"),
    ]
    assert all(path.is_file() for _, path in loaded)
    node = slicer.mrmlScene.AddNewNodeByClass.return_value
    assert [call.args[2] for call in node.SetCellText.call_args_list] == ["heart", "1.0", "0.5", "1.5"]
