"""A curve's points run what they say they do, its slope is that of a line, and a table and a figure come out."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import growth, jobs, speed
from benchmarks.speed.growth import CURVES, MARK_SIDE, amount, curve_table, run_point, size_of, slopes, slopes_of
from benchmarks.speed.options import BUNDLES
from monai_pdddpm.inferers.windows import WindowPlan, covering_windows, margin_of

PHANTOM = BUNDLES / "phantom_segmentation"
TINY = {"roi_size": [16, 16, 16], "members": 2, "num_steps": 3}


def test_a_line_has_one_slope():
    line = {n: (float(n), 3 + 0.5 * n) for n in (1, 2, 8, 64)}
    assert slopes(line, 8) == (0.5, 0.5)
    line[64] = (64.0, line[8][1] + 56 * 2.0)
    assert slopes(line, 8) == (2.0, 0.5)


@pytest.mark.parametrize("knee", [1, 64, 5])
def test_no_slopes_at_the_ends_or_of_what_was_not_measured(knee):
    assert slopes({n: (float(n), n) for n in (1, 8, 64)}, knee) is None


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("windows", [1, 2, 3, 16])
def test_images_have_the_windows_that_are_asked_for(windows, overlap):
    assert len(WindowPlan(size_of("windows", windows, [10, 14], overlap), [10, 14], overlap)) == windows


def test_images_of_the_other_curves():
    assert size_of("volume", 64, [10, 14, 12], 0.5) == [64, 64, 64]
    assert size_of("members", 32, [10, 14, 12], 0.5) == [10, 14, 12]


def test_every_curve_bends_at_a_point_of_its_own():
    assert all(curve.knee in curve.values[1:-1] for curve in CURVES.values())
    assert all(list(curve.values) == sorted(curve.values) for curve in CURVES.values())


@pytest.mark.parametrize("config", sorted(BUNDLES.glob("*/configs/inference.json")), ids=lambda c: c.parts[-3])
@pytest.mark.parametrize("edge", CURVES["volume"].values)
def test_the_undecided_place_fits_into_one_window_of_each_bundle(edge, config):
    config = json.loads(config.read_text())
    roi, reach = config["roi_size"], config["margin"] + 1  # neighbours of the marked voxels see a border
    active = torch.zeros([max(edge, r) for r in roi], dtype=torch.bool)
    active[tuple(slice(n // 2 - reach, n // 2 + MARK_SIDE + reach) for n in active.shape)] = True
    assert len(covering_windows(active, roi, margin_of(roi, config["overlap"]))) == 1


@pytest.mark.parametrize(
    ("curve", "value", "run", "skipped", "evaluations"),
    [
        ("members", 3, 1, 0, 3 * 3),
        ("num_steps", 2, 1, 0, 2 * 2),
        ("windows", 2, 2, 0, 2 * 2 * 3),
        ("volume", 8, 1, 0, 2 * 3),  # smaller than a window
        ("volume", 32, 1, 26, 2 * 3),
    ],
)
def test_a_point_runs_what_it_says(curve, value, run, skipped, evaluations):
    row = run_point(curve, value, str(PHANTOM), "cpu", TINY, repeats=1, seconds=60)
    assert (row["windows_run"], row["windows_skipped"], row["denoiser_evaluations"]) == (run, skipped, evaluations)
    assert row["members"] == (3 if curve == "members" else 2)
    assert row["num_steps"] == (2 if curve == "num_steps" else 3)
    parts = sum(row["seconds"][stage]["median"] for stage in growth.STAGES[:-1])
    assert 0 < parts <= row["seconds"]["total"]["median"]
    assert row["peak_mib"] > 0.99 * row["start_mib"] > 0  # the kernel counts to a few pages


def test_runs_stop_with_the_time(tmp_path):
    job = {"curve": "members", "value": 1, "bundle": str(PHANTOM), "device": "cpu", "overrides": TINY}
    for repeats, seconds, expected in ((3, 0, 1), (2, 1000, 2)):
        asked = json.dumps({**job, "repeats": repeats, "seconds": seconds})
        speed.main(["--job", asked, "--job_file", str(tmp_path / "row.json")])
        assert json.loads((tmp_path / "row.json").read_text())["runs"] == expected


def row(curve, value, seconds, size=(40, 56, 40)):
    quartiles = {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
    return {
        "curve": curve,
        "value": value,
        "size": list(size),
        "members": value if curve == "members" else 8,
        "num_steps": 2,
        "windows_run": 1,
        "windows_skipped": 3,
        "denoiser_evaluations": 2 * value,
        "runs": 3,
        "seconds": dict.fromkeys(growth.STAGES, quartiles),
        "start_mib": 500.0,
        "peak_mib": 750.0,
        "gpu_peak_mib": None,
        "yardstick_seconds": 0.02,
    }


def test_volume_is_counted_in_million_voxels():
    rows = [row("volume", n, s, (n, n, n)) for n, s in ((32, 1.0), (128, 3.0), (256, 31.0))]
    assert [amount(r) for r in rows] == pytest.approx([0.032768, 2.097152, 16.777216])
    found = slopes_of(rows)
    assert found["behind"] == pytest.approx(28 / (16.777216 - 2.097152))
    assert found["ratio"] == pytest.approx(28 / 14.680064 / (2 / 2.064384))
    assert curve_table(rows).splitlines()[2] == ("| 32 | 1 of 4 | 64 | 3 | 1 | 1 | 1 | 1 [0.9, 1.1] | - | 750 (+250) |")
    assert " | 0.969 | 750" in curve_table(rows).splitlines()[3]


def test_table_and_figure(tmp_path, monkeypatch, capsys):
    asked, slow = [], []

    def run(command, env, check):
        job = json.loads(command[command.index("--job") + 1])
        asked.append((job["curve"], job["value"], job["overrides"]))
        seconds = 900.0 if job["value"] in slow else 1 + 0.5 * job["value"]
        found = row(job["curve"], job["value"], seconds, size_of(job["curve"], job["value"], [40, 56, 40], 0.5))
        with open(command[command.index("--job_file") + 1], "w") as file:
            json.dump(found, file)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(jobs, "commit", lambda: "abc")
    common = ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path), "--device", "cpu", "--seconds", "500"]
    speed.main([*common, "--growth", "members", "--members", "4"])
    assert asked == [("members", n, {"members": 4}) for n in CURVES["members"].values]
    text = (tmp_path / "results_growth_cpu.md").read_text()
    assert "From 8 to 64 one more member costs 0.5 s, from 1 to 8 0.5 s: 1.00 times as much" in text
    assert "### Steps" not in text
    slow.append(3)
    speed.main([*common, "--growth", "num_steps", "--members", "4"])  # the other curve stays
    assert [value for _, value, _ in asked[7:]] == [1, 2, 3]
    text = (tmp_path / "results_growth_cpu.md").read_text()
    assert text.index("### Members") < text.index("### Steps")
    assert "Left out: 5, 10, 20, since a run before took more than 500 s (--seconds)." in text
    found = json.loads((tmp_path / "results_growth_cpu.json").read_text())
    assert found["slopes"] == {"members": {"behind": 0.5, "before": 0.5, "ratio": 1.0}, "num_steps": None}
    assert [len(rows) for rows in found["curves"].values()] == [7, 3]
    assert (tmp_path / "results_growth_cpu.png").stat().st_size > 5000
    slow.clear()
    speed.main([*common, "--growth"])
    assert len(asked) == 10 + sum(len(curve.values) for curve in CURVES.values())
    assert "### Windows" in capsys.readouterr().out
