"""The page of a case: what it embeds, when it is cropped or left out, and that it needs nothing else."""

import base64
import dataclasses
import gzip
import html
import json
import logging
import re
from importlib.metadata import PackageNotFoundError

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize import viewer
from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.viewer import niivue, write_viewer

SHAPE = (6, 5, 4)
AFFINE = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])  # axes to the front and the left
CODE = "const Niivue = 1;export{NVImage,Niivue,Other};"


@pytest.fixture(autouse=True)
def package(monkeypatch, tmp_path):
    """Stand in for ipyniivue, so that these tests run without it."""

    class Package:
        version = "2.4.4"
        files = ()

        def locate_file(self, path):
            return tmp_path / path

    widget = tmp_path / "ipyniivue" / "static" / "widget.js"
    widget.parent.mkdir(parents=True)
    encoded = "const%20Niivue%20%3D%201%3Bexport%7BNVImage%2CNiivue%2COther%7D%3B"
    widget.write_text(f'var a="b",c="{encoded}";export{{c as default}}', encoding="utf-8")
    monkeypatch.setattr(viewer, "distribution", lambda name: Package())
    niivue.cache_clear()
    yield widget
    niivue.cache_clear()


def view(**changes):
    rng = np.random.default_rng(0)
    seg = np.zeros(SHAPE, np.uint8)
    seg[2:4, 1:3, 1:3] = 2
    entropy = np.where(seg > 0, np.log(3), 0).astype(np.float32)
    case = CaseView(
        title="a case",
        image=rng.normal(100, 40, SHAPE).astype(np.float32),
        affine=AFFINE,
        labels={1: "one", 2: "two"},
        seg=seg,
        entropy=entropy,
        members=np.stack([seg, np.roll(seg, 1, axis=0)]),
        variance=np.stack([0 * entropy, 0.25 * (seg > 0)]),
    )
    return dataclasses.replace(case, **changes)


def embedded(path):
    """Return the page's data, with its volumes as images."""
    text = path.read_text(encoding="utf-8")
    data = json.loads(html.unescape(re.search('id="data">(.*?)</script>', text, re.DOTALL)[1]))
    images = {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume)))
        for name, volume in data["volumes"].items()
    }
    return data, images


def test_volumes_are_embedded_with_their_positions(tmp_path):
    case = view()
    write_viewer(tmp_path / "page.html", case, {})
    data, images = embedded(tmp_path / "page.html")

    for image in images.values():
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    types = {name: image.get_data_dtype() for name, image in images.items()}
    assert types == {"scan": np.int16, "labels": np.uint8, "maps": np.uint8}
    assert data["label_maps"] == ["Segmentation", "Member 1", "Member 2"]
    assert [(one["name"], round(one["highest"], 4), one["unit"]) for one in data["maps"]] == [
        ("Entropy", 1.0986, "nats"),
        ("Variance of one", 0.25, ""),
        ("Variance of two", 0.25, ""),
    ]
    step = float(np.ptp(case.image)) / 65535
    for index in np.ndindex(*SHAPE):
        there = nib.affines.apply_affine(np.linalg.inv(images["scan"].affine) @ AFFINE, index).round().astype(int)
        there = tuple(there)
        assert images["scan"].get_fdata()[there] == pytest.approx(case.image[index], abs=step)
        expected = [case.seg[index], *(member[index] for member in case.members)]
        assert images["labels"].dataobj[there].tolist() == expected
        inside = 255 if case.seg[index] else 0
        assert images["maps"].dataobj[there].tolist() == [inside, 0, inside]
    assert data["voxel_ml"] == pytest.approx(0.009)
    assert images["labels"].dataobj[(*data["crosshair"], 0)] == 2  # the first position shows the structure


def test_code_and_license_come_from_the_package(tmp_path):
    assert gzip.decompress(niivue()).decode() == CODE
    write_viewer(tmp_path / "page.html", view(), {})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "NiiVue, from ipyniivue 2.4.4." in text
    code = re.search('id="niivue">(.*?)</script>', text)[1]
    assert gzip.decompress(base64.b64decode(code)).decode() == CODE


def test_a_large_case_is_cropped(tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "MAX_VOXELS", 119)
    monkeypatch.setattr(viewer, "MARGIN_MM", 1.0)  # one voxel on each side
    write_viewer(tmp_path / "page.html", view(), {})
    _, images = embedded(tmp_path / "page.html")
    # the structure and its members reach from 2 to 4 along the first axis; the axes are exchanged
    assert images["scan"].shape == (4, 5, 4)
    corner = images["scan"].affine @ [0, 0, 0, 1]
    assert corner.tolist() == (AFFINE @ [1, 3, 0, 1]).tolist()
    assert "Cropped to the structures" in (tmp_path / "page.html").read_text(encoding="utf-8")

    at_the_edge = np.zeros(SHAPE, np.uint8)
    at_the_edge[0, 1:3, 1:3] = 1
    write_viewer(tmp_path / "edge.html", view(seg=at_the_edge, members=None, entropy=0.0 * at_the_edge), {})
    _, images = embedded(tmp_path / "edge.html")
    assert images["scan"].shape[1] == 2


@pytest.mark.parametrize("empty", [False, True])
def test_a_case_that_is_too_large_has_no_page(tmp_path, monkeypatch, caplog, empty):
    monkeypatch.setattr(viewer, "MAX_VOXELS", 7)
    nothing = np.zeros(SHAPE, np.uint8)
    case = view(seg=nothing, members=None, entropy=nothing.astype(float)) if empty else view()
    with caplog.at_level(logging.INFO):
        write_viewer(tmp_path / "page.html", case, {})
    assert "no page written, the case has more than 7 voxels to show" in caplog.text
    assert not (tmp_path / "page.html").exists()


def test_a_small_bright_structure_is_not_all_white(tmp_path):
    image, seg = np.tile(np.linspace(0, 100, 20), (20, 20, 1)), np.zeros((20, 20, 20), np.uint8)
    seg[8:10, 8:10, 8:10] = 1  # 0.1 % of the scan
    image[8:10, 8:10, 8:10] = [200, 300]
    case = view(image=image, seg=seg, entropy=0.0 * image, members=None, variance=None)
    write_viewer(tmp_path / "page.html", case, {})
    data, _ = embedded(tmp_path / "page.html")
    assert data["window"] == [pytest.approx(0, abs=0.1), pytest.approx(300, abs=0.1)]


def test_values_that_are_not_finite_and_constant_scans(tmp_path):
    image = np.full(SHAPE, 7.0)
    image[0, 0] = np.nan
    entropy = np.full(SHAPE, np.nan)
    write_viewer(tmp_path / "page.html", view(image=image, entropy=entropy), {})
    data, images = embedded(tmp_path / "page.html")
    assert images["scan"].get_fdata().max() == pytest.approx(7)
    assert not np.asarray(images["maps"].dataobj)[..., 0].any()
    assert data["window"][0] < data["window"][1]


def test_markup_is_escaped_and_nothing_is_requested(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    case = view(title=hostile, labels={1: hostile, 2: "<img src=http://a>"}, notes=(hostile,))
    write_viewer(tmp_path / "page.html", case, {"unlike_usual": [hostile]})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert "<img" not in text
    assert "default-src 'none'" in text
    assert not re.search("<link|<iframe|@import|url\\(", text)
    assert embedded(tmp_path / "page.html")[0]["labels"][0]["name"] == hostile


def test_volumes_of_the_result_are_shown(tmp_path):
    volume = {"segmentation": 1.25, "members_min": 1.0, "members_max": 1.5, "interval_90": [1.1, 1.4]}
    result = {"volume_ml": {"two": volume}, "predicted_dice": {"value": 0.87, "interval_90": [0.8, 0.9]}}
    write_viewer(tmp_path / "page.html", view(), result)
    text = re.sub("<[^>]+>", " ", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "90 % interval: 1.100 to 1.400" in text
    assert "members: 1.000 to 1.500" in text
    assert "Predicted Dice with an annotator: 0.87, 90 % interval 0.80 to 0.90" in text


def test_without_the_package(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(viewer, "distribution", missing)
    with pytest.raises(UserError, match=r"ipyniivue: found no installation, .*; install it with pip install 'monai"):
        niivue()


def test_another_content_of_the_package(package):
    package.write_text('var a="b"')
    with pytest.raises(UserError, match=r"widget\.js: found no NiiVue module"):
        niivue()
