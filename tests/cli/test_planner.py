"""The plan for fingerprints made by hand is the plan that the rules give."""

import json
import math

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_pdddpm.cli.memory import GIB, MemoryBudget, training_memory
from monai_pdddpm.cli.planner import _batch, _widths, plan
from monai_pdddpm.cli.preprocessing_rules import modality_of
from monai_pdddpm.cli.segmenter_bundle import SegmenterBundle
from monai_pdddpm.utils.errors import UserError

PLENTY = MemoryBudget(1000 * GIB, "1000 GiB", gpu=True)


def fingerprint(shapes=((100, 120, 80),), spacings=((1, 1, 1),), channels=("MRI",), labels=("lesion",), **numbers):
    def distribution(values):
        names = {"median": 50, "percentile_10": 10}
        return {name: np.percentile(values, p, axis=0).tolist() for name, p in names.items()}

    channel = {"mean": 40, "sd": 20, "min": 0, "max": 200, "percentile_00_5": -20, "percentile_99_5": 100}
    channel |= {"missing": 0, "background": 0.0, "foreground_fraction": 1.0} | numbers
    spacings = spacings * len(shapes) if len(spacings) == 1 else spacings
    return {
        "cases": len(shapes),
        "frames": False,
        "shape": distribution(shapes),
        "spacing_mm": distribution(spacings),
        "channels": [{"name": name} | channel for name in channels],
        "labels": {str(i): {"name": name} for i, name in enumerate(("background", *labels))},
        "each": [{"shape": s, "spacing_mm": m} for s, m in zip(shapes, spacings, strict=True)],
    }


def planned(found=None, cases=100, budget=PLENTY, memory=64 * GIB, **options):
    """Return the values, and the choices by name."""
    values, choices = plan(found or fingerprint(), cases, budget, memory, **options)
    return values, {choice.name: choice for choice in choices}


def room_for(window, batch, filters=16, classes=2):
    """Memory for a batch of windows of one channel, and no more."""
    return MemoryBudget(training_memory(window, batch, filters, 1, classes), "this memory", True)


def test_hippocampus_like():
    found = fingerprint([(35, 50, 36)] * 200, labels=("anterior", "posterior"))
    values, choices = planned(found, cases=208)
    assert values == {
        "num_classes": 3,
        "highest_label": 2,
        "highest_value": 2,
        "highest_entropy": 1.0986,
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "label_values": [0, 1, 2],
        "channels": 1,
        "channel_def": {"0": "MRI"},
        "spacing": [1.0, 1.0, 1.0],
        "roi_size": [40, 56, 40],
        "overlap": 0.5,
        "intensity": [
            {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 0.5, "upper": 99.5}
            | {"b_min": 0.0, "b_max": 1.0, "clip": True},
            {"_target_": "NormalizeIntensityd", "keys": "image"},
        ],
        "flip_prob": 0.5,
        "lesions": False,
        "filters": 16,
        "blocks_down": [1, 2, 2, 4],
        "blocks_up": [1, 1, 1],
        "denoiser_channels": [32, 64, 128],
        "batch_size": 4,
        "epochs": 97,  # 5000 steps, 52 per epoch
        "segmenter_val_interval": 4,
        "val_interval": 19,
        "epoch_windows": None,
        "cache_rate": 1.0,
        "missing_channels": "error",
        "fourth_dimension": "channel",
        "map_shape": ["X", "Y", "Z"],
    }
    assert all(choice.text and choice.reason for choice in choices.values())
    assert choices["levels"].text == "4, windows are multiples of 8 voxels"


def test_the_plan_depends_on_its_arguments_only():
    found = fingerprint([(200, 210, 190), (180, 200, 40)], [(1, 1, 1), (1, 1, 5)], channels=("T1", "T2"))
    before = json.dumps(found)
    assert planned(found) == planned(found)
    assert json.dumps(found) == before


class TestSpacing:
    @pytest.mark.parametrize(
        ("shape", "spacings", "expected"),
        [
            ((90, 90, 90), [(1, 1, 1), (2, 1, 3), (1.5, 1, 2)], [1.5, 1, 2]),
            # few thick slices: the 10th percentile, but not finer than the other axes
            ((200, 200, 20), [(1, 1, z) for z in (2, 4, 6, 8, 10, 10, 10, 10, 10, 10, 10)], [1, 1, 4]),
            ((200, 200, 20), [(2, 2, 0.5)] * 4 + [(2, 2, 8)] * 6, [2, 2, 2]),
            ((200, 200, 90), [(1, 1, 5)], [1, 1, 5]),  # thick, but many slices
            # three times coarser, or a third of the slices, is not enough
            ((200, 200, 20), [(1, 1, 2)] * 4 + [(1, 1, 3)] * 6, [1, 1, 3]),
            ((60, 60, 20), [(1, 1, 2)] * 4 + [(1, 1, 8)] * 6, [1, 1, 8]),
        ],
    )
    def test_rule(self, shape, spacings, expected):
        assert planned(fingerprint([shape] * len(spacings), spacings))[0]["spacing"] == expected

    def test_given(self):
        values, choices = planned(fingerprint([(64, 64, 64)], [(1, 1, 2)]), spacing=(2, 1, 1))
        assert values["spacing"] == [2, 1, 1]
        assert values["roi_size"] == [32, 64, 128]
        assert choices["spacing"].reason == "set by --spacing"


class TestIntensity:
    def test_ct(self):
        (transform,) = planned(fingerprint(channels=("CT",)))[0]["intensity"]
        assert (transform["a_min"], transform["a_max"], transform["clip"]) == (-20, 100, True)
        assert (transform["b_min"], transform["b_max"]) == (-3, 3)  # (-20 - 40) / 20 and (100 - 40) / 20

    def test_background_of_zeros(self):
        (transform,) = planned(fingerprint(channels=("T1", "T2"), foreground_fraction=0.4))[0]["intensity"]
        assert transform == {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True, "nonzero": True}

    def test_background_of_another_value(self):
        found = fingerprint(foreground_fraction=0.4, background=-1000.0)
        shift, normalize = planned(found)[0]["intensity"]
        assert shift == {"_target_": "ShiftIntensityd", "keys": "image", "offset": 1000.0}
        assert normalize == {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
        scan = torch.full((1, 4, 4, 4), -1000.0)
        scan[0, 1:3] = torch.arange(32.0).reshape(2, 4, 4)
        pipeline = ConfigParser({"all": {"_target_": "Compose", "transforms": [shift, normalize]}})
        normal = pipeline.get_parsed_content("all")({"image": scan})["image"]
        assert (normal[0, 0] == 0).all()
        assert normal[0, 1:3].mean().item() == pytest.approx(0, abs=1e-5)
        assert normal[0, 1:3].std(correction=0).item() == pytest.approx(1, abs=1e-5)

    def test_background_that_differs(self):
        values, choices = planned(fingerprint(foreground_fraction=0.4, background=None))
        assert values["intensity"][0]["_target_"] == "ScaleIntensityRangePercentilesd"
        assert "differs from scan to scan" in choices["intensity"].reason

    def test_hint_at_ct(self):
        def reason(name):
            return planned(fingerprint(channels=(name,), min=-1000))[1]["intensity"].reason

        assert "name the channel CT" in reason("scan")
        assert "name the channel CT" not in reason("MRI")

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            *((name, "CT") for name in ("CT", "ct", "CT portal")),
            *((name, "MR") for name in ("MRI", "T1w", "FLAIR")),
            *((name, "n/a") for name in ("PET", "image", "active")),
        ],
    )
    def test_modality(self, name, kind):
        assert modality_of(name) == kind


class TestWindow:
    def test_thin_scans_have_three_levels(self):
        values, choices = planned(fingerprint([(64, 64, 15)]))
        assert choices["levels"].reason == "the median scan is 15 voxels thick; 4 levels need 16"
        assert choices["levels"].text == "3, windows are multiples of 4 voxels"
        assert (values["roi_size"], values["denoiser_channels"]) == ([64, 64, 16], [32, 64])
        assert (values["blocks_down"], values["blocks_up"]) == ([1, 2, 4], [1, 1])
        assert planned(fingerprint([(64, 64, 6)]))[0]["roi_size"] == [64, 64, 8]
        assert planned(fingerprint([(64, 64, 16)]))[0]["blocks_down"] == [1, 2, 2, 4]

    @pytest.mark.parametrize(("gpu", "limit"), [(True, 128**3), (False, 64**3)])
    def test_limit_and_proportions(self, gpu, limit):
        budget = MemoryBudget(1000 * GIB, "", gpu)
        window = planned(fingerprint([(400, 200, 300)]), budget=budget)[0]["roi_size"]
        assert math.prod(window) <= limit < math.prod(window) * 1.35
        assert window[0] >= window[2] >= window[1]
        assert all(side % 8 == 0 for side in window)

    @pytest.mark.parametrize(("gpu", "side"), [(True, 128), (False, 64)])
    def test_a_median_scan_of_the_largest_size_is_one_window(self, gpu, side):
        values, choices = planned(fingerprint([(side,) * 3]), budget=MemoryBudget(1000 * GIB, "", gpu))
        assert values["roi_size"] == [side] * 3
        assert choices["window"].reason.startswith("the median scan")
        _, choices = planned(fingerprint([(side + 8, side, side)]), budget=MemoryBudget(1000 * GIB, "", gpu))
        assert choices["window"].reason.startswith(f"at most {side**3} voxels")

    @pytest.mark.parametrize(
        ("shape", "gpu", "expected"),
        [
            ((320, 320, 20), False, [104, 104, 24]),
            ((320, 20, 320), False, [104, 24, 104]),
            ((512, 512, 40), True, [224, 232, 40]),
            ((512, 256, 40), True, [320, 160, 40]),
            ((240, 240, 155), True, [128, 128, 128]),
        ],
    )
    def test_thin_axes_stay_whole(self, shape, gpu, expected):
        budget = MemoryBudget(1000 * GIB, "", gpu)
        assert planned(fingerprint([shape]), budget=budget)[0]["roi_size"] == expected

    @pytest.mark.parametrize("side", [32, 64, 96])
    def test_two_fit_in_memory_and_no_larger_ones(self, side):
        values, choices = planned(fingerprint([(300, 300, 300)]), budget=room_for([side] * 3, 2))
        assert values["roi_size"] == [side] * 3
        assert "this memory" in choices["window"].reason
        if side == 96:  # the first window is one of the largest: memory is what shortens it
            _, choices = planned(fingerprint([(128, 128, 128)]), budget=room_for([side] * 3, 2))
            assert "this memory" in choices["window"].reason

    def test_too_little_memory(self):
        budget = MemoryBudget(0.51 * GIB, "", True)
        with pytest.raises(UserError, match=r"--memory: found 0\.51 GiB, expected at least 0\.58 GiB"):
            planned(fingerprint([(90, 90, 90)]), budget=budget)

    def test_overlap(self):
        assert planned(fingerprint([(40, 50, 40)]))[0]["overlap"] == 0.5
        assert planned(fingerprint([(400, 400, 400)]))[0]["overlap"] == 0.25
        assert planned(fingerprint([(20, 400, 400)]))[0]["overlap"] == 0.25


def test_length():
    values, choices = planned(cases=1)
    assert (values["epochs"], values["epoch_windows"]) == (200, 100)  # 25 steps per epoch
    assert (values["segmenter_val_interval"], values["val_interval"]) == (10, 40)  # 20 and 5 validations
    assert "from 1 case" in choices["length"].text
    assert planned(cases=170)[0]["epochs"] == 120  # 42 steps per epoch
    values, _ = planned(cases=9999)  # 3 epochs
    assert (values["segmenter_val_interval"], values["val_interval"]) == (1, 1)
    assert planned(cases=49)[0]["epoch_windows"] == 100
    assert planned(cases=50)[0]["epoch_windows"] is None  # one for each case


def test_cache():
    found = fingerprint([(64, 64, 64)])  # image and label take 2 MiB
    assert planned(found, memory=2 * GIB)[0]["cache_rate"] == 1
    assert planned(found | {"cases": 4}, memory=GIB / 128)[0]["cache_rate"] == 0.5
    assert planned(found, memory=GIB / 512)[0]["cache_rate"] == 0.5
    assert planned(found, memory=1.01 * GIB / 512)[0]["cache_rate"] == 0.5  # rounded down


@pytest.mark.parametrize(
    ("labels", "flip_prob", "lesions"),
    [
        (("liver", "tumour"), 0.5, True),
        (("kidney_left", "spleen"), 0.0, False),
        (("Right lung",), 0.0, False),
        (("bright spot", "clefts"), 0.5, False),
    ],
)
def test_names_of_labels(labels, flip_prob, lesions):
    values = planned(fingerprint(labels=labels))[0]
    assert (values["flip_prob"], values["lesions"]) == (flip_prob, lesions)


def test_missing_channels():
    values, choices = planned(fingerprint(channels=("T1", "FLAIR"), missing=3))
    assert values["missing_channels"] == "zero"
    assert "FLAIR in 3" in choices["missing channels"].reason


class TestGivenSegmenter:
    def segmenter(self, **options):
        options = {"window": [96, 96, 96], "divisor": 32, "spacing": [1.5, 1.5, 2.0]} | options
        return SegmenterBundle(name="zoo", definition={}, network=nn.Identity(), **options)

    def test_its_settings_are_used(self):
        values, choices = planned(segmenter=self.segmenter())
        assert (values["spacing"], values["roi_size"], values["intensity"]) == ([1.5, 1.5, 2.0], [96, 96, 96], [])
        assert choices["window"].reason == "window of zoo"
        assert (choices["spacing"].text, choices["intensity"].text) == ("1.5 x 1.5 x 2 mm", "unchanged")
        assert choices["levels"].reason == "segmenter given"

    def test_its_window_is_shortened_to_multiples_of_its_divisor(self):
        segmenter = self.segmenter(spacing=None)
        values, _ = planned(fingerprint([(90, 90, 90)]), budget=room_for([80, 80, 80], 2), segmenter=segmenter)
        assert values["roi_size"] == [64, 64, 96]

    def test_a_window_that_the_denoiser_cannot_take_is_replaced(self):
        _, choices = planned(segmenter=self.segmenter(window=[96, 96, 44]))
        assert choices["window"].reason.startswith("the median scan")


@pytest.mark.parametrize(("gib", "expected"), [(4, 4), (3.9, 3), (3, 3), (2, 2), (1, 2)])
def test_batch_by_hand(gib, expected):
    choice = _batch([32, 32, 32], lambda window, count: count * GIB, MemoryBudget(gib * GIB, "this memory", False))
    assert choice.value == expected
    assert choice.reason == f"2 to 4 as memory allows: about {expected} GiB of this memory"


@pytest.mark.parametrize(("gib", "expected"), [(33, 16), (32, 16), (31.9, 8)])
def test_widths_by_hand(gib, expected):
    def need(window, count, filters):
        assert window == [32, 32, 32]
        return count * filters * GIB

    assert _widths(need, MemoryBudget(gib * GIB, "this memory", False)).value == expected
