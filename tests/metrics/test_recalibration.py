"""Fits recover the parameters that samples were made with."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from monai_pdddpm.metrics.calibration import negative_log_likelihood
from monai_pdddpm.metrics.recalibration import (
    TEMPERATURES,
    Calibration,
    CalibrationCase,
    Volume,
    best_temperature,
    cross_validated,
    fit_calibration,
    fit_interval_factor,
    nll_curve,
    tempered,
    usual_range,
)


def test_tempering_is_known_by_hand():
    p = torch.tensor([0.8, 0.2])
    # sqrt(0.8) : sqrt(0.2) = 2 : 1
    assert tempered(p, 2.0).tolist() == pytest.approx([2 / 3, 1 / 3])
    # 0.64 : 0.04
    assert tempered(p, 0.5).tolist() == pytest.approx([16 / 17, 1 / 17])
    assert tempered(p, 1.0) is p
    certain = torch.tensor([1.0, 0.0])
    assert tempered(certain, 3.0).tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0, 2.0, 3.5])
def test_temperature_is_found_again(temperature):
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(40000, 3, generator=generator).mul(2).softmax(1)
    truth = torch.multinomial(right, 1, generator=generator)[:, 0]
    # Probabilities sharpened by 1 / T need the temperature T.
    wrong = tempered(right.double(), 1 / temperature, dim=1).clamp(min=1e-6)
    found = best_temperature(nll_curve(wrong, truth))
    assert found == pytest.approx(temperature, rel=0.04)

    def nll(t):
        return float(torch.nn.functional.cross_entropy(wrong.log() / t, truth))

    assert found == pytest.approx(minimize_scalar(nll, bounds=(0.2, 5), method="bounded").x, rel=2e-3)


@pytest.mark.parametrize("temperature", [0.253, 0.27, 1.0, 1.37, 3.7, 3.95])
def test_the_minimum_of_a_parabola_in_the_logarithm_is_exact(temperature):
    curve = (np.log(TEMPERATURES) - math.log(temperature)) ** 2
    assert best_temperature(curve + 5) == pytest.approx(temperature, rel=1e-6)


def test_certain_and_wrong_voxels_count_as_a_millionth():
    curve = nll_curve(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    tempered_losses = [math.log1p(10 ** (12 / t)) for t in TEMPERATURES]
    assert curve == pytest.approx([min(loss, math.log(1e6)) for loss in tempered_losses], rel=1e-9)


def test_the_curve_is_the_loss_of_the_answer_that_inference_tempers():
    p = torch.tensor([[1 - 1e-12, 1e-12], [0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    truth = torch.tensor([1, 0, 0])
    expected = [3 * negative_log_likelihood(tempered(p, t, dim=1), truth) for t in TEMPERATURES]
    assert nll_curve(p, truth) == pytest.approx(expected, rel=1e-9)


def test_no_change_is_one_of_the_temperatures():
    assert (TEMPERATURES[0], TEMPERATURES[32], TEMPERATURES[-1]) == pytest.approx((0.25, 1, 4))


def test_curves_without_a_minimum_inside():
    assert best_temperature(np.full(65, 7.0)) == 1.0
    assert best_temperature(np.arange(65.0)) == pytest.approx(TEMPERATURES[1])  # a line has no bend
    assert best_temperature(-(np.arange(65.0) ** 2)) == pytest.approx(TEMPERATURES[63])  # nor is a maximum one
    assert best_temperature(np.sqrt(np.arange(65.0))) == pytest.approx(TEMPERATURES[1])
    assert best_temperature(np.arange(65.0)[::-1] ** 2) == pytest.approx(TEMPERATURES[64])
    far = (np.log(TEMPERATURES) - math.log(0.1)) ** 2  # the parabola's minimum is beyond the list
    assert best_temperature(far) == pytest.approx(TEMPERATURES[0])


def test_interval_factor_by_hand():
    # scores 1, 2, 0, 3: too few cases for 90 %, so the largest
    assert fit_interval_factor([10.0] * 4, [11.0, 8.0, 10.0, 16.0], [1.0, 1.0, 2.0, 2.0]) == 3.0
    # scores 0 to 19: the ceil(21 * 0.9) = 19th smallest is 18
    assert fit_interval_factor(np.arange(20.0), np.zeros(20), np.ones(20)) == 18.0


def test_intervals_cover_new_cases_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        spread = rng.uniform(0.5, 3, 40)
        error = 1.7 * spread * rng.standard_normal(40)
        factor = fit_interval_factor(error[:39], np.zeros(39), spread[:39])
        covered.append(abs(error[39]) <= factor * spread[39])
    assert np.mean(covered) == pytest.approx(0.9, abs=0.04)


def test_spread_has_a_floor():
    assert Volume(expected_ml=5.0, uncertain_ml=1.0).scale_ml == 1.0
    assert Volume(expected_ml=5.0, uncertain_ml=0.0).scale_ml == pytest.approx(0.05)
    assert Volume(expected_ml=0.0, uncertain_ml=0.0).scale_ml == 0.001  # a cubic millimeter


def test_usual_range_by_hand():
    # a ratio of 4: widened by its square root on both sides
    assert usual_range([1.0, 2.0, 4.0]) == pytest.approx((0.5, 8.0))
    assert usual_range([2.0, 2.0]) == pytest.approx((1.6, 2.5))


def test_an_absent_structure_makes_zero_usual_and_does_not_widen_the_range():
    assert usual_range([0.0, 1.0, 2.0, 4.0]) == pytest.approx((0, 8.0))
    assert usual_range([0.0, 0.0]) == (0, 0)
    calibration = Calibration(ranges={"volume of a (mL)": usual_range([0.0, 1.0, 4.0])})
    assert calibration.unlike({"volume of a (mL)": 0.0}) == []
    assert len(calibration.unlike({"volume of a (mL)": 30.0})) == 1
    assert Calibration(ranges={"a": (1.0, 2.0)}).unlike({"a": 2.0}) == []


def cases(n=30, seed=0, temperature=2.0):
    """Cases with known parameters: a temperature, volume errors of twice the uncertain volume, Dice on a line."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    made = []
    for number in range(n):
        right = torch.randn(2000, 3, generator=generator).softmax(1)
        truth = torch.multinomial(right, 1, generator=generator)[:, 0]
        volume, expected, uncertain = rng.uniform(2, 4), rng.uniform(0.8, 0.95), rng.uniform(0.05, 0.2)
        made.append(
            CalibrationCase(
                subject=f"subject {number}",
                probability=tempered(right, 1 / temperature, dim=1),
                truth=truth,
                true_ml={"tumour": float(volume + 2 * uncertain * rng.standard_normal())},
                volumes={"tumour": Volume(expected_ml=volume, uncertain_ml=uncertain)},
                features={"expected_dice": expected, "side (mm)": rng.uniform(40, 60)},
                dice=2 * expected - 0.9 + 0.01 * rng.standard_normal(),
            )
        )
    return made


def test_everything_is_found_again():
    fitted = fit_calibration(cases())
    assert fitted.temperature == pytest.approx(2.0, rel=0.05)
    # 1.645 standard deviations of twice the uncertain volume, give or take that of 30 cases
    assert fitted.interval_factor["tumour"] == pytest.approx(3.3, abs=1.5)
    slope, intercept, half = fitted.dice_line
    assert (slope, intercept) == (pytest.approx(2, abs=0.15), pytest.approx(-0.9, abs=0.13))
    assert half == pytest.approx(0.0165, abs=0.008)
    value, low, high = fitted.predicted_dice(0.9)
    assert value == pytest.approx(0.9, abs=0.01)
    assert (value - low, high - value) == pytest.approx((half, half))
    assert fitted.unlike({"expected_dice": 0.9, "side (mm)": 50}) == []
    (sentence,) = fitted.unlike({"expected_dice": 0.9, "side (mm)": 250})
    assert sentence.startswith("side (mm): found 250, ")


def test_cross_validation():
    judged = cross_validated(cases())
    assert judged["nll_after"] < judged["nll_before"] - 0.02
    assert judged["interval_coverage"]["tumour"] == pytest.approx(0.9, abs=0.1)
    assert judged["dice_rank_correlation"] > 0.95
    assert judged["dice_mean_error"] == pytest.approx(0.008, abs=0.004)
    assert judged["unlike"] == 0
    assert 0 < judged["interval_width"]["tumour"] < 1


def test_cross_validation_leaves_out_whole_subjects():
    # each case twice: left out alone, it would be judged by its copy
    some = [case for case in cases(8) for _ in range(2)]
    figures, of_one = cross_validated(some), cross_validated(cases(8))
    for name in ("nll_before", "nll_after"):
        assert figures[name] == pytest.approx(of_one[name])


def test_one_case_unlike_the_others_is_called_so():
    some = cases()
    strange = some[3]
    features = {**strange.features, "side (mm)": 500.0}
    some[3] = CalibrationCase(**{**vars(strange), "features": features})
    assert cross_validated(some)["unlike"] == pytest.approx(1 / 30)


def test_defaults_change_nothing():
    nothing = Calibration()
    assert nothing.interval("tumour", Volume(1.0, 0.1)) is None
    assert nothing.predicted_dice(0.9) is None
    assert nothing.unlike({"expected_dice": -1}) == []
    assert math.isclose(nothing.temperature, 1)


def test_dice_stays_within_its_range_and_volumes_above_zero():
    calibration = Calibration(interval_factor={"tumour": 10}, dice_line=(2.0, 0.0, 0.5))
    assert calibration.predicted_dice(0.9) == (1.0, 1.0, 1.0)
    assert calibration.interval("tumour", Volume(0.5, 0.5)) == (0.0, 5.5)


def test_the_predicted_dice_is_off_by_the_largest_residual_of_few_cases():
    # two cases at each expected Dice, 0.1 above and below the line
    points = [(x, 0.5 + 0.2 * x + off) for x in (0.2, 0.4, 0.6) for off in (-0.1, 0.1)]
    some = [
        CalibrationCase(**{**vars(case), "features": {"expected_dice": x}, "dice": y})
        for case, (x, y) in zip(cases(6), points, strict=True)
    ]
    # a line through the other five cases is off by 0.1 / (1 - leverage) at an end, where the leverage is 1/6 + 1/4
    assert fit_calibration(some).dice_line == pytest.approx((0.2, 0.5, 0.1 / (7 / 12)))


def test_expected_dice_without_variation_gives_no_line():
    same = [CalibrationCase(**{**vars(case), "features": {"expected_dice": 0.9}}) for case in cases(6)]
    assert fit_calibration(same).dice_line is None
    assert math.isnan(cross_validated(same)["dice_rank_correlation"])


def test_answers_that_are_all_right_have_no_rank():
    right = [CalibrationCase(**{**vars(case), "dice": 1.0}) for case in cases(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(cross_validated(right)["dice_rank_correlation"])


def test_likelihood_before_is_that_of_the_cases_in_double_precision():
    made = cases(8)
    truths = [case.truth.numpy() for case in made]
    rows = [case.probability.numpy().astype(float) for case in made]
    expected = np.mean([-np.log(p[np.arange(len(t)), t]).mean() for p, t in zip(rows, truths, strict=True)])
    assert cross_validated(made)["nll_before"] == pytest.approx(expected, rel=1e-12)


def test_a_volume_at_an_end_of_its_interval_is_covered(monkeypatch):
    fitted = Calibration(interval_factor={"tumour": 1.0})
    monkeypatch.setattr("monai_pdddpm.metrics.recalibration.fit_calibration", lambda cases: fitted)
    some = [
        CalibrationCase(**{**vars(case), "volumes": {"tumour": Volume(1.0, 0.5)}, "true_ml": {"tumour": true}})
        for case, true in zip(cases(4), (0.5, 1.5, 0.4375, 1.5625), strict=True)
    ]
    assert cross_validated(some)["interval_coverage"]["tumour"] == 0.5
