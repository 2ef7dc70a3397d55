"""Each rule gives what its words say, on fingerprints made by hand."""

import math

import numpy as np
import pytest

from monai_pdddpm.cli import planner
from monai_pdddpm.cli.memory import GIB, Need, Room
from monai_pdddpm.utils.errors import UserError

ROOMY = Room(1000 * GIB, "1000 GiB", True)
LIGHT = Need(0, 1)


def seen(shapes=((100, 120, 80),), spacings=((1, 1, 1),), channels=("MRI",), nonzero=1.0, **numbers):
    def spread(values):
        return {
            "median": np.median(values, axis=0).tolist(),
            "percentile_10": np.percentile(values, 10, axis=0).tolist(),
        }

    intensities = {"mean": 40, "sd": 20, "min": 0, "max": 200, "percentile_00_5": -20, "percentile_99_5": 100}
    return {
        "cases": len(shapes),
        "shape": spread(shapes),
        "spacing_mm": spread(spacings),
        "channels": [{"name": n, "missing": 0, "nonzero_share": nonzero} | intensities | numbers for n in channels],
        "each": [{"shape": s, "spacing_mm": m} for s, m in zip(shapes, spacings, strict=True)],
    }


class TestSpacing:
    def test_median(self):
        spacings = [(1, 1, 1), (2, 1, 3), (1.5, 1, 2)]
        assert planner.choose_spacing(seen([(90, 90, 90)] * 3, spacings)).value == [1.5, 1, 2]

    def test_anisotropic_takes_the_tenth_percentile(self):
        spacings = [(1, 1, z) for z in (2, 4, 6, 8, 10, 10, 10, 10, 10, 10, 10)]
        choice = planner.choose_spacing(seen([(200, 200, 20)] * 11, spacings))
        assert choice.value == [1, 1, 4]
        assert "10th percentile" in choice.reason

    def test_never_finer_than_the_others(self):
        spacings = [(2, 2, 0.5), *[(2, 2, 8)] * 8]
        assert planner.choose_spacing(seen([(200, 200, 20)] * 9, spacings)).value == [2, 2, 6.5]
        spacings = [(2, 2, 0.5)] * 4 + [(2, 2, 8)] * 6
        assert planner.choose_spacing(seen([(200, 200, 20)] * 10, spacings)).value == [2, 2, 2]

    def test_coarse_but_many_slices(self):
        assert planner.choose_spacing(seen([(200, 200, 90)], [(1, 1, 5)])).value == [1, 1, 5]

    def test_as_asked_for(self):
        assert planner.choose_spacing(seen(), (1, 2, 3)).value == [1, 2, 3]

    def test_shape_follows(self):
        assert planner.resampled_shape(seen([(100, 120, 80)], [(1, 1, 2)]), [2, 1, 1]) == [50, 120, 160]
        assert planner.resampled_shape(seen([(100, 120, 80)], [(1, 1, 2)]), None) == [100, 120, 80]


class TestIntensity:
    def test_ct(self):
        (transform,) = planner.choose_intensity(seen(channels=("CT",))).value
        assert (transform["a_min"], transform["a_max"], transform["clip"]) == (-20, 100, True)
        assert (transform["b_min"], transform["b_max"]) == (-3, 3)  # (-20 - 40) / 20 and (100 - 40) / 20

    def test_brain_cut_out(self):
        (transform,) = planner.choose_intensity(seen(channels=("T1", "T2"), nonzero=0.4)).value
        assert transform == {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True, "nonzero": True}

    def test_full_scan(self):
        clip, z_score = planner.choose_intensity(seen()).value
        assert clip["_target_"] == "ScaleIntensityRangePercentilesd"
        assert z_score == {"_target_": "NormalizeIntensityd", "keys": "image"}

    def test_hint(self):
        assert "call the channel CT" in planner.choose_intensity(seen(channels=("scan",), min=-1000)).reason
        assert "CT if" not in planner.choose_intensity(seen(channels=("MRI",), min=-1000)).reason

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("CT", "CT"),
            ("ct", "CT"),
            ("CT portal", "CT"),
            ("MRI", "MR"),
            ("T1w", "MR"),
            ("FLAIR", "MR"),
            ("PET", "n/a"),
        ],
    )
    def test_modality(self, name, kind):
        assert planner.modality_of(name) == kind


class TestWindow:
    def test_whole_scan(self):
        assert planner.choose_window([35, 50, 36], 8, LIGHT, ROOMY).value == [40, 56, 40]

    def test_thin_scan(self):
        assert planner.choose_depth([200, 200, 12]).value == 4
        assert planner.choose_depth([200, 200, 16]).value == 8
        assert planner.choose_window([64, 64, 6], 4, LIGHT, ROOMY).value == [64, 64, 8]

    @pytest.mark.parametrize(("gpu", "limit"), [(True, 128**3), (False, 64**3)])
    def test_limit_and_shape(self, gpu, limit):
        window = planner.choose_window([400, 400, 100], 8, LIGHT, Room(1000 * GIB, "", gpu)).value
        assert math.prod(window) <= limit < math.prod(window) * 1.35
        assert window[0] == window[1] > 2 * window[2]  # keeps the scan's proportions
        assert all(side % 8 == 0 for side in window)

    @pytest.mark.parametrize("gib", [1, 2, 8])
    def test_two_fit_in_memory_and_nothing_larger_does(self, gib):
        need, room = Need(0.5 * GIB, 4000), Room(gib * GIB, f"{gib} GiB", True)
        choice = planner.choose_window([300, 300, 300], 8, need, room)
        assert need.of(choice.value, 2) <= room.size
        assert need.of([side + 8 for side in choice.value], 2) > room.size
        assert f"{gib} GiB" in choice.reason

    def test_too_little_memory(self):
        with pytest.raises(UserError, match=r"--memory: found 0\.5 GiB, expected 0\.55"):
            planner.choose_window([90, 90, 90], 8, Need(0.5 * GIB, 6554), Room(0.5 * GIB, "", True))

    def test_batch(self):
        def batch(gib):
            return planner.choose_batch([64, 64, 64], Need(0, 4096), Room(gib * GIB, "", True)).value  # 1 GiB a window

        assert [batch(gib) for gib in (2, 2.9, 3, 4, 100)] == [2, 2, 3, 4, 4]

    def test_overlap(self):
        assert planner.choose_overlap([40, 50, 40], [40, 56, 40]).value == 0.5
        assert planner.choose_overlap([41, 50, 40], [40, 56, 40]).value == 0.25

    def test_widths_halve_only_when_they_must(self):
        needs = {16: Need(0, 16384), 8: Need(0, 8192)}  # two windows of 32^3: 1 GiB and half a GiB
        assert planner.choose_widths(needs.__getitem__, 8, Room(GIB, "", True)).value == 16
        assert planner.choose_widths(needs.__getitem__, 8, Room(0.9 * GIB, "", True)).value == 8


def test_length():
    assert planner.choose_length(170, 4).value == (120, None)  # 42 steps an epoch
    assert planner.choose_length(1, 2).value == (100, 100)  # 50 steps an epoch, windows drawn
    assert "1 case" in planner.choose_length(1, 2).words


def test_cache():
    one = seen([(64, 64, 64)], [(1, 1, 1)])  # image and label: 2 MiB
    assert planner.choose_cache(one, [1, 1, 1], 2 * GIB).value == 1
    assert planner.choose_cache(one, [1, 1, 1], GIB / 512).value == 0.5


def test_names_decide():
    assert planner.choose_flips(["liver", "tumour"]).value
    assert not planner.choose_flips(["kidney_left", "spleen"]).value
    assert not planner.choose_flips(["Right lung"]).value
    assert planner.choose_flips(["bright spot", "clefts"]).value
    assert planner.choose_lesions(["liver", "liver tumour"]).value
    assert not planner.choose_lesions(["liver"]).value
