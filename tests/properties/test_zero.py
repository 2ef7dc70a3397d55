"""Cases without a structure, without voxels, or with nothing at all give numbers that can be used, or none."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.metrics import lesion_metrics, segmentation_metrics
from monai_pdddpm.metrics.recalibration import (
    Calibration,
    CalibrationCase,
    Volume,
    best_temperature,
    cross_validated,
    fit_calibration,
    nll_curve,
    usual_range,
)

VOLUMES = st.one_of(st.just(0.0), st.floats(1e-4, 500))


@st.composite
def calibration_cases(draw):
    """Draw validation cases, some without the structure, some without voxels near it."""
    made = []
    for number in range(draw(st.integers(6, 14))):
        true_ml, expected = draw(VOLUMES), draw(VOLUMES)
        voxels = draw(st.sampled_from([0, 0, 5, 40])) if true_ml else 0
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        made.append(
            CalibrationCase(
                subject=f"subject {number}",
                probability=torch.rand(voxels, 2, generator=generator).softmax(1),
                truth=torch.randint(2, (voxels,), generator=generator),
                true_ml={"a": true_ml},
                volumes={"a": Volume(expected_ml=expected, uncertain_ml=expected * draw(st.floats(0, 0.3)))},
                features={"expected_dice": draw(st.floats(0, 1)), "volume of a (mL)": expected},
                dice=draw(st.floats(0, 1)),
            )
        )
    return made


class TestCalibration:
    @given(calibration_cases())
    def test_intervals_of_the_cases_hold_their_truth_and_stay_finite(self, cases):
        fitted = fit_calibration(cases)
        assert Calibration(**json.loads(json.dumps(vars(fitted)))).interval_factor == fitted.interval_factor
        assert 0.25 <= fitted.temperature <= 4
        inside = 0
        for case in cases:
            low, high = fitted.interval("a", case.volumes["a"])
            assert 0 <= low <= case.volumes["a"].expected_ml <= high < math.inf
            inside += low <= case.true_ml["a"] + 1e-9 and case.true_ml["a"] - 1e-9 <= high * (1 + 1e-9)
            assert fitted.unlike(case.features) == []
        assert inside >= min(len(cases), math.ceil((len(cases) + 1) * 0.9))

    @given(calibration_cases())
    def test_figures_are_means_over_the_cases_that_have_a_value(self, cases):
        figures = cross_validated(cases)
        with_voxels = [case for case in cases if len(case.truth)]
        assert math.isnan(figures["nll_before"]) is (not with_voxels)
        if with_voxels:
            rows = [case.probability.double()[range(len(case.truth)), case.truth] for case in with_voxels]
            assert figures["nll_before"] == pytest.approx(np.mean([-float(p.log().mean()) for p in rows]), rel=1e-5)
        assert math.isnan(figures["interval_width"]["a"]) is (not any(case.true_ml["a"] for case in cases))
        assert 0 <= figures["interval_coverage"]["a"] <= 1

    def test_an_absent_structure_is_no_width_and_a_found_one_no_infinite_factor(self):
        def case(number, true_ml, expected):
            return CalibrationCase(
                subject=str(number),
                probability=torch.zeros(0, 2),
                truth=torch.zeros(0, dtype=torch.long),
                true_ml={"a": true_ml},
                volumes={"a": Volume(expected, 0.1 * expected)},
                features={"expected_dice": 0.1 * number},
                dice=0.5,
            )

        absent = [case(number, 0.0, 0.0) for number in range(6)]
        assert fit_calibration(absent).interval("a", Volume(0.0, 0.0)) == (0, 0)
        assert fit_calibration(absent).temperature == 1
        # five present cases: each is off by one scale, so every factor is 1 and every width 2 x 0.1 x 2 / 2
        present = [case(10 + number, 2.0, 2.0 / 0.9) for number in range(5)]
        figures = cross_validated(present + absent)
        assert figures["interval_width"]["a"] == pytest.approx(2 * 0.1 / 0.9, rel=1e-6)
        # a missed structure of 0.5 mL: in units of a cubic millimeter
        assert fit_calibration([*absent[:4], case(9, 0.5, 0.0)]).interval_factor["a"] == pytest.approx(500)

    def test_no_voxels_leave_the_temperature_as_it_is(self):
        assert best_temperature(nll_curve(torch.zeros(0, 3), torch.zeros(0))) == 1

    @given(st.lists(VOLUMES, min_size=1, max_size=9))
    def test_the_usual_range_holds_what_it_was_made_of(self, values):
        low, high = usual_range(values)
        assert all(low <= value <= high for value in values)
        assert (low == 0) is (0.0 in values)


def label_maps(count):
    """Small label maps with two classes, each of which is often absent."""
    one = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=27, max_size=27) | st.just([0] * 27)
    return st.lists(one, min_size=count, max_size=count).map(lambda maps: torch.tensor(maps).view(-1, 3, 3, 3))


class TestMetrics:
    @given(label_maps(2))
    def test_no_value_is_invented_for_an_absent_structure(self, maps):
        answer, truth = maps
        found = segmentation_metrics(answer, truth, {1: "a", 2: "b"}, (1.0, 2.0, 0.5))
        lesions = lesion_metrics(answer, truth, {1: "a", 2: "b"})
        for index, name in ((1, "a"), (2, "b")):
            one, other = answer == index, truth == index
            size = int(one.sum() + other.sum())
            dice = 2 * int((one & other).sum()) / size if size else 1.0
            assert found[name]["dice"] == pytest.approx(dice)
            assert math.isnan(found[name]["hd95_mm"]) is (bool(one.any()) != bool(other.any()))
            assert math.isnan(found[name]["volume_error_percent"]) is (not other.any())
            assert found[name]["volume_ml"] == pytest.approx(int(one.sum()) / 1000)
            assert math.isnan(lesions[name]["lesion_f1"]) is (size == 0)
            assert lesions[name]["missed_lesions"] <= lesions[name]["true_lesions"]
