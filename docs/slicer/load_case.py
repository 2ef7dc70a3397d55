"""Load a case into 3D Slicer with all its members: `Slicer --python-script load_case.py <output_dir>/<case>`.

The scene `<case>_scene.mrml` shows the answer; this script adds the members as a sequence, all maps, and a table of the
volumes. In Slicer's Python console: `sys.argv = ["", "<output_dir>/<case>"]`, then `exec(open("load_case.py").read())`.
It needs Slicer 5.2 or newer and nothing else.
"""

import json
import math
import sys
from pathlib import Path

import slicer

MAPS = {"entropy": "Entropy", "mutual-information": "Mutual information"}


def load_case(folder):
    """Load the files of a case that exist, and show scan, entropy and segmentation in the slice views."""
    case = folder.name
    report = json.loads((folder / f"{case}_report.json").read_text(encoding="utf-8"))
    highest = math.log(len(report["labels"]) + 1)

    def file(kind):
        path = folder / f"{case}_{kind}"
        return str(path) if path.is_file() else None

    scan = next(iter([report["image"]] if isinstance(report["image"], str) else filter(None, report["image"])))
    background = None
    if Path(scan).is_file():  # load a DICOM series with Slicer's DICOM module
        background = slicer.util.loadVolume(scan, {"name": case, "show": False})
    shown = {}
    for kind, name in MAPS.items():
        if path := file(f"{kind}.nii.gz"):
            shown[kind] = slicer.util.loadVolume(path, {"name": f"{case} {name}", "show": False})
            color_map(shown[kind], highest)
    table = file("seg.ctbl") and slicer.util.loadColorTable(file("seg.ctbl"))
    properties = {"name": f"{case} segmentation"} | ({"colorNodeID": table.GetID()} if table else {})
    segmentation = file("seg.seg.nrrd") or file("seg.nii.gz")
    if segmentation:
        slicer.util.loadSegmentation(segmentation, properties)
    if path := file("members.nii.gz"):
        slicer.util.loadSequence(path, {"name": f"{case} members", "show": False})
    slicer.util.setSliceViewerLayers(
        background=background or shown.get("entropy"),
        foreground=shown.get("entropy") if background else None,
        foregroundOpacity=0.5,
        fit=True,
    )
    add_volumes(case, report.get("result", {}).get("volume_ml", {}))


def color_map(node, highest):
    """Show a map in Magma from 0 to its highest value, transparent below a twentieth of it."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileMagma.txt")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0, highest)
    display.SetThreshold(highest / 20, highest)
    display.SetApplyThreshold(True)


def add_volumes(case, volumes):
    """Add a table with the volume of each structure and its interval, in mL."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{case} volumes")
    columns = ["structure", "segmentation", "low", "high"]
    for column in columns:
        node.AddColumn().SetName(column)
    for name, volume in volumes.items():
        low, high = volume.get("interval_90") or (volume.get("members_min"), volume.get("members_max"))
        row = node.AddEmptyRow()
        for number, value in enumerate((name, volume.get("segmentation"), low, high)):
            node.SetCellText(row, number, "" if value is None else str(value))


if __name__ == "__main__":
    load_case(Path(sys.argv[-1]).resolve())
