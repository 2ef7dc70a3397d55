"""The page of a case in a real browser: it loads from disk, scrolls, and switches members and maps.

The case is a bright box in a dark scan, segmented exactly. Its members are larger on one side, and the entropy grows
towards that side, so all that the page shows is known.
"""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt

from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.viewer import write_viewer

from .browser import screenshot, visit

pytest.importorskip("ipyniivue", reason="the extra viewer is not installed")
pytestmark = pytest.mark.slow

SHAPE, SPACING = (24, 20, 16), (1.0, 1.5, 2.0)
BOX = (slice(6, 14), slice(5, 15), slice(4, 12))  # 8 x 10 x 8 voxels of 3 mm3
MEMBERS = 3

READY = """
  for (let i = 0; document.body.dataset.state !== "ready"; i++) {
    if (i > 200) throw new Error(`not ready: ${element("message").textContent}`);
    await wait(100);
  }
  const pixels = id => {
    const base = element(id), copy = document.createElement("canvas");
    [copy.width, copy.height] = [base.width, base.height];
    const pen = copy.getContext("2d");
    nv.drawScene();  // in the same task: WebGL keeps no picture
    pen.drawImage(base, 0, 0);
    return pen.getImageData(0, 0, copy.width, copy.height);
  };
  const changed = (a, b) => a.data.reduce((count, value, i) => count + (value !== b.data[i]), 0);
  const set = (id, value) => {
    element(id).value = value;
    element(id).dispatchEvent(new Event("input"));
  };
  const voxel = () => Array.from(nv.frac2vox(nv.scene.crosshairPos), Math.round);
"""


def view():
    """Return the case, stored with axes to the back, the feet and the right."""
    seg = np.zeros(SHAPE, np.uint8)
    seg[BOX] = 1
    members = np.stack([seg] * MEMBERS)
    entropy = np.zeros(SHAPE, np.float32)
    for number in range(MEMBERS):
        members[number, 14 : 15 + number, 5:15, 4:12] = 1
        entropy[14 + number, 5:15, 4:12] = 0.1 + 0.2 * number
    entropy[16, 9, 8] = np.log(2)
    turn = axcodes2ornt("PIR")
    to_file = nib.orientations.ornt_transform(axcodes2ornt("RAS"), turn)
    stored = nib.Nifti1Image(seg, np.diag((*SPACING, 1.0))).as_reoriented(to_file)
    turned = [apply_orientation(volume, to_file) for volume in (100.0 * seg, seg, entropy, entropy / 4)]
    return CaseView(
        title="box & <b>more</b>",
        image=turned[0],
        affine=stored.affine,
        labels={1: "box"},
        seg=turned[1],
        entropy=turned[2],
        members=np.stack([apply_orientation(member, to_file) for member in members]),
        preseg=np.zeros_like(turned[1]),
        mutual_information=turned[3],
        variance=turned[3][None],
        notes=("a note",),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the path of the page."""
    path = tmp_path_factory.mktemp("viewer") / "box_viewer.html"
    volume = {"segmentation": 1.92, "members_min": 2.16, "members_max": 2.64, "interval_90": [1.8, 2.5]}
    write_viewer(path, view(), {"volume_ml": {"box": volume}, "unlike_usual": ["volume of box (mL)"]})
    return path


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    """Return what was seen on a visit of the page."""
    script = (
        READY
        + """
    seen.start = voxel();
    seen.dims = [...scan.dimsRAS].slice(1, 4);
    seen.text = document.querySelector("aside").innerText;
    seen.labels = [...element("label_map").options].map(option => option.text);
    seen.maps = [...element("map").options].map(option => option.text);
    seen.here = element("here").innerText;

    const before = [pixels("canvas"), pixels("outlines")];
    const tile = nv.screenSlices[0].leftTopWidthHeight;  // axial
    const [x, y] = [tile[0] + tile[2] / 3, tile[1] + tile[3] / 3];
    element("canvas").dispatchEvent(new WheelEvent("wheel", {deltaY: 100, clientX: x, clientY: y, bubbles: true}));
    await wait(100);
    seen.scrolled = voxel();
    seen.scrolling = changed(before[0], pixels("canvas"));
    goTo(seen.start);

    // the outline lies where the scan changes from dark to bright
    set("map", "-1");
    goTo([9, 9, 8]);
    const [scanned, outlined] = [pixels("canvas"), pixels("outlines")];
    seen.edges = nv.screenSlices.map(({leftTopWidthHeight: [left, top, width, height]}) => {
      const row = Math.round(top + height * 0.42);
      const at = (image, x) => image.data.slice(4 * (row * image.width + x), 4 * (row * image.width + x) + 4);
      const first = Math.ceil(Math.min(left, left + width));
      const columns = [...Array(Math.floor(Math.abs(width))).keys()].map(i => first + i);
      const bright = columns.filter(x => at(scanned, x)[0] > 127);
      const drawn = columns.filter(x => at(outlined, x)[3] > 127);
      return [bright[0] - drawn[0], bright.at(-1) - drawn.at(-1), bright.length];
    });
    set("map", "0");

    seen.switched = [];
    for (let i = 0; i < 5; i++) {
      const last = pixels("outlines");
      element("next").click();
      seen.switched.push([element("label_map").selectedOptions[0].text, changed(last, pixels("outlines"))]);
    }
    element("previous").click();
    seen.back = element("label_map").selectedOptions[0].text;
    const one = pixels("outlines");
    set("label_map", "all");
    seen.all = changed(one, pixels("outlines"));
    const colored = () => {
      const {data} = pixels("outlines");
      return data.reduce((count, value, i) => count + (i % 4 === 0 && value !== data[i + 2]), 0);
    };
    seen.colored = colored();
    set("label_map", "-1");
    seen.none = [element("label_map").value, colored()];
    // the letters lie inside the pictures: something white at the edges, on a black background
    const texts = pixels("outlines");
    seen.letters = nv.screenSlices.map(({leftTopWidthHeight: [left, top, width, height]}) => {
      const white = (x, y) => texts.data[4 * (Math.round(y) * texts.width + Math.round(x))] > 100;
      const near = (x, y) => [...Array(900).keys()].filter(i => white(x - 15 + i % 30, y - 15 + i / 30)).length;
      const [first, last] = [left, left + width].toSorted((a, b) => a - b);
      return [near(first + 16, top + height / 2), near(last - 16, top + height / 2),
              near((first + last) / 2, top + 16), near((first + last) / 2, top + height - 16)];
    });
    // the bar of the axial picture, 5 mm of 24
    const [left, top, width, height] = nv.screenSlices[0].leftTopWidthHeight;
    const row = texts.data.slice(4 * texts.width * (Math.round(top + height) - 7)).filter((_, i) => i % 4 === 0);
    seen.bar = row.slice(0, Math.abs(width)).filter(value => value > 127).length / Math.abs(width);
    set("label_map", "0");

    seen.thresholds = [];
    for (const value of [10, 60, 150, 250]) {
      const last = pixels("canvas");
      set("threshold", value);
      const texts = ["from", "above"].map(id => element(id).textContent);
      seen.thresholds.push([...texts, changed(last, pixels("canvas"))]);
    }
    set("threshold", 26);
    element("peak").click();
    seen.peak = voxel();
    seen.atPeak = element("here").innerText;
    const entropy = pixels("canvas");
    set("map", "1");
    seen.mapSwitch = changed(entropy, pixels("canvas"));
    seen.highest = element("highest").textContent;
    const all = pixels("canvas");
    document.querySelector("[data-plane='2']").click();
    seen.planes = nv.screenSlices.map(slice => slice.axCorSag);
    seen.plane = changed(all, pixels("canvas"));
    document.querySelector("[data-plane='3']").click();
    set("zoom", 3);
    seen.zoom = changed(all, pixels("canvas"));
    element("reset").click();
    seen.reset = [voxel(), element("zoom").value];
    """
    )
    return visit(page, script, tmp_path_factory.mktemp("browser"))


def test_no_errors_and_nothing_refused(seen):
    assert seen["problems"] == []


def test_grid_and_first_position(seen):
    assert seen["dims"] == list(SHAPE)
    assert seen["start"][2] in range(4, 12)
    assert seen["labels"] == [
        "Segmentation",
        "Member 1",
        "Member 2",
        "Member 3",
        "First segmentation",
        "All members",
        "None",
    ]
    assert seen["maps"] == ["Entropy", "Mutual information", "Variance of box", "None"]


def test_texts(seen):
    text = seen["text"]
    assert "box & <b>more</b>" in text
    assert "a note" in text
    assert "Outside the usual range, check this case: volume of box (mL)" in text
    assert "1.920" in text
    assert "90 % interval: 1.800 to 2.500" in text


def test_wheel_moves_one_slice(seen):
    difference = np.abs(np.subtract(seen["scrolled"], seen["start"]))
    assert difference.tolist() == [0, 0, 1]
    assert seen["scrolling"] > 100


def test_outlines_lie_on_the_edges_of_the_scan(seen):
    assert len(seen["edges"]) == 3
    for first, last, width in seen["edges"]:
        assert width > 50
        assert abs(first) <= 2
        assert abs(last) <= 2


def test_members_switch(seen):
    names = [name for name, _ in seen["switched"]]
    assert names == ["Member 1", "Member 2", "Member 3", "First segmentation", "Segmentation"]
    assert all(count > 20 for _, count in seen["switched"])
    assert seen["back"] == "First segmentation"
    assert seen["all"] > 100
    assert seen["colored"] > 100
    assert seen["none"] == ["-1", 0]


def test_directions_are_written_at_all_edges(seen):
    assert len(seen["letters"]) == 3
    assert min(min(tile) for tile in seen["letters"]) > 3


def test_the_bar_has_its_length(seen):
    assert seen["bar"] == pytest.approx(5 / SHAPE[0], abs=0.01)


def test_threshold(seen):
    highest = np.log(2)
    entropy = np.concatenate([np.full(80, value) for value in (0.1, 0.3, 0.5)])
    entropy[-1] = highest  # one voxel of the last layer
    for value, (start, above, _) in zip((10, 60, 150, 250), seen["thresholds"], strict=True):
        assert start == f"{value / 255 * highest:.3f} nats"
        count = (np.rint(255 * entropy / highest) >= value).sum()
        assert above == f"{count * 0.003:.3f} mL"
    assert all(changed > 20 for _, _, changed in seen["thresholds"][1:])


def test_most_uncertain_voxel(seen):
    assert seen["peak"] == [16, 9, 8]
    lines = dict(line.split("\t") for line in seen["atPeak"].splitlines())
    assert lines == {
        "Scan": "0.000",
        "Segmentation": "background",
        "First segmentation": "background",
        "Members": "2 background, 1 box",
        "Entropy": "0.693 nats",
        "Mutual information": "0.174 nats",
        "Variance of box": "0.173",
    } | {key: lines[key] for key in ("Mutual information", "Variance of box")}
    assert float(lines["Mutual information"].split()[0]) == pytest.approx(np.log(2) / 4, abs=0.0015)
    assert float(lines["Variance of box"]) == pytest.approx(np.log(2) / 4, abs=0.0011)


def test_maps_planes_and_zoom(seen):
    assert seen["mapSwitch"] > 20
    assert seen["highest"] == "0.693 nats"
    assert seen["planes"] == [2]
    assert seen["plane"] > 1000
    assert seen["zoom"] > 1000
    assert seen["reset"] == [seen["start"], "1"]


def test_screenshot(page, tmp_path):
    picture = tmp_path / "viewer.png"
    screenshot(page, picture, tmp_path)
    assert picture.stat().st_size > 20_000
    if folder := os.environ.get("SCREENSHOTS"):  # kept by the workflow
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, Path(folder) / "viewer.png")
