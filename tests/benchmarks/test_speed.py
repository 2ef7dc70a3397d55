"""Contenders are built and counted correctly, and the speed scripts write their tables."""

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from benchmarks import common, gpu
from benchmarks.speed import budget, contenders, drawn, growth, rivals, windows
from benchmarks.speed.entries import CONTENDERS, Task, flops
from monai_pdddpm.data import write_phantom
from monai_pdddpm.inferers import EnsembleOutput, PDDDPMInferer
from monai_pdddpm.inferers.device_memory import reverse_chain
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import decode_probabilities

TINY = {"roi_size": [16, 16, 16], "members": 2, "num_steps": 2}


def test_only_the_chain_is_scaled():
    found = contenders.scaled({"read": 1.0, "chain": 2.0, "total": 4.0}, 250)
    assert found == {"read": 1.0, "chain": 500.0, "total": 502.0}


def test_ratios_are_quartiles_over_turns():
    def runs(*networks):
        return [{"networks": n, "total": 10.0} for n in networks]

    found = contenders.summary(runs(2.0, 9.0, 8.0), runs(1.0, 3.0, 1.0), 0.0)["times_ours"]
    assert found["networks"] == {"low": 2.5, "median": 3.0, "high": 5.5}
    assert found["total"]["median"] == 1.0


def test_processes_take_turns_case_by_case():
    calls = []

    class Fake:
        ready_seconds = 1.0

        def __init__(self, name):
            self.name = name

        def __call__(self, case):
            calls.append((self.name, case))
            return {"chain": 2.0, "total": 3.0}

        def end(self):
            return {"title": self.name}

    rows = contenders.taking_turns({"ours": Fake("ours"), "other": Fake("other")}, cases=2, rounds=2)
    assert calls == [(name, case) for case in (0, 1, 0, 1) for name in ("ours", "other")]
    assert (rows["other"]["title"], rows["other"]["runs"], rows["other"]["seconds"]["networks"]["median"]) == (
        "other",
        4,
        2,
    )


def test_a_chain_of_monais_scheduler_equals_monais_loop():
    class Half(nn.Module):
        def forward(self, x, timesteps):
            return 0.5 * x[:, :2] + 1e-3 * timesteps.view(-1, 1, 1, 1, 1) * x[:, 2:]

    denoiser = rivals.Concatenated(Half(), 2)
    network = rivals.FromNoise(rivals.UniformSegmenter(2), denoiser, prediction="eps", schedule="linear_beta")
    image, noise = torch.randn(1, 1, 4, 4, 4), torch.randn(3, 2, 4, 4, 4)
    presegmentation = network.segment(image)
    torch.manual_seed(1)
    features = network.encode(image, presegmentation)
    chain, network.scheduler = rivals.vanilla_chain()
    found = reverse_chain(network, presegmentation, features, [noise], chain)[1]
    scheduler, x = DDPMScheduler(num_train_timesteps=1000), noise
    torch.manual_seed(1)
    for t in scheduler.timesteps.tolist():
        output = Half()(torch.cat([x, image.expand(3, 1, 4, 4, 4)], dim=1), torch.full((3,), t))
        x, _ = scheduler.step(output, t, x)
    torch.testing.assert_close(found, decode_probabilities(x, -1.0, 1.0))


def test_passes_of_a_segmenter_that_is_invariant_to_flips():
    inferer = common.make_inferer(common.read_bundle(common.PHANTOM, TINY))
    pair = PDDDPM(nn.Conv3d(1, 3, 1), rivals.Concatenated(nn.Identity(), 3, divisor=1)).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    passes = rivals.SegmenterPasses(inferer.config, [(), (0,), (1, 2)])
    output = passes(MetaTensor(image), nn.ModuleList([pair]))
    alone = pair.segment(image)[0]
    parts = EnsembleOutput(3, members=3).split(output.as_tensor()[0])
    for name in ("pred", "preseg"):
        torch.testing.assert_close(parts[name], alone, atol=1e-2, rtol=0)  # bfloat16
    assert parts["variance"].abs().max() < 1e-4
    run = output.meta["ensemble_run"][0].as_report()
    assert (run["members"], run["windows_skipped"], run["denoiser_evaluations"]) == (3, 1, 0)


@pytest.mark.parametrize("name", [n for n in CONTENDERS if n not in ("segmenter_ensemble", "mc_dropout")])
def test_flops_of_contenders(name):
    task = Task(common.PHANTOM, overrides=TINY)
    entry, ours = CONTENDERS[name].build(task), CONTENDERS["ours"].build(task)
    counted, expected = flops(entry, task.parser()), flops(ours, task.parser())
    if name in ("fast_ddpm", "ddpm"):
        assert rivals.parameters(entry.network) == 10_340_771
        assert counted["segment"] == counted["encode"] == 0
    elif "segmenter" in name or "windows" in name:
        assert counted["segment"] == entry.passes * expected["segment"]
        assert counted["call"] == 0
    else:
        assert counted["segment"] == expected["segment"]


@pytest.mark.slow
def test_the_script_of_contenders_runs(tmp_path, capsys):
    data = tmp_path / "data"
    write_phantom(data, train=1, validation=1, test=0, annotations=1, size=(16, 16, 16))
    command = ["--dataset_dir", str(data), "--bundle", str(common.PHANTOM), "--rounds", "2", "--device", "cpu"]
    command += ["--overrides", json.dumps(TINY), "--only", "segmenter_flips", "fast_ddpm"]
    command += ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    contenders.main(command)
    rows = json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"]
    assert list(rows) == ["ours", "segmenter_flips", "fast_ddpm"]
    assert [row["runs"] for row in rows.values()] == [2, 2, 1]
    assert rows["ours"]["times_ours"]["total"] == {"low": 1, "median": 1, "high": 1}
    assert rows["ours"]["ready_seconds"] > 0
    assert rows["ours"]["denoiser_evaluations"] == 2 * 2
    assert rows["fast_ddpm"]["denoiser_evaluations"] == 2 * 10
    assert rows["fast_ddpm"]["timed_steps"] == 5
    assert (rows["fast_ddpm"]["dice"], rows["ours"]["dice"] is None) == (None, False)
    assert "| Fast-DDPM, 10 steps (scaled) |" in capsys.readouterr().out
    assert (tmp_path / "results_contenders_cpu.png").stat().st_size > 5000


def test_drawn_classes_are_nested_and_unsure_at_their_surfaces_only():
    size = drawn.Size((40, 40, 40), common.PHANTOM, balls=1, radius=14)
    logits = drawn.DrawnSegmenter(None, 3)(drawn.distance_image(size, channels=2).as_tensor())
    probability = logits.softmax(1)[0]
    labels = probability.argmax(0)
    for value, radius in ((1, 14), (2, 14 - drawn.LAYER)):
        assert abs(int((labels >= value).sum()) / (4 / 3 * math.pi * radius**3) - 1) < 0.1
    unsure = probability.amax(0) < 0.95
    assert not unsure[20, 20, 20]
    assert not unsure[0, 0, 0]
    assert unsure[20, 20, 33:35].any()


def test_drawn_members_differ_at_the_surface():
    pair = common.load_pair(common.read_bundle(common.PHANTOM))
    pair.prediction = "x0"
    pair = drawn.drawn_pair(pair, "cpu", runs=False)
    inferer = PDDDPMInferer(roi_size=[24, 24, 24], time_steps=[900, 500], members=3, return_members=True)
    image = drawn.distance_image(drawn.Size((24, 24, 24), common.PHANTOM, 1, 8))
    parts, _ = common.run_inferer(inferer, pair, image.as_tensor())
    labels = parts["members"].argmax(1)
    assert (labels[0] != labels[1]).any()
    assert (labels[:, 12, 12, 12] == 2).all()
    assert (labels[:, 0, 0] == 0).all()


@pytest.mark.slow
def test_the_budget_of_a_case(tmp_path, monkeypatch):
    size = drawn.Size((24, 24, 24), common.HIPPOCAMPUS, 1, 8, {"roi_size": [16, 16, 16]})
    monkeypatch.setitem(drawn.SIZES, "tiny", size)
    maps = "seg,prob,members,entropy,mutual-information,variance,preseg"
    row = budget.run_job("tiny", "cpu", False, {"members": 2, "outputs": maps + ",overview"})
    assert all(row["seconds"][stage] > 0 for stage in ("read", "preprocess", "chain", "inverse", "write", "picture"))
    assert row["total"] == pytest.approx(sum(row["seconds"].values()) + row["rest"])
    row = budget.run_job("tiny", "cpu", False, {"members": 2, "outputs": maps})
    assert row["megabytes"] == pytest.approx(0.1233, rel=0.1)  # compression differs a little between versions of zlib
    assert "| write |" in budget.as_table([row | {"gpu_peak_mib": None, "peak_mib": 9, "start_mib": 1}])


def test_exponents_of_powers():
    assert growth.exponent([1, 2, 4, 8, 16], [9, 2, 8, 32, 128]) == pytest.approx(2)  # of the last four points
    assert growth.exponent([3], [1.0]) is None


@pytest.mark.slow
def test_the_script_of_growth_runs(tmp_path, capsys):
    command = ["--small", "--device", "cpu", "--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    growth.main([*command, "--curves", "members", "volume", "processes"])
    curves = json.loads((tmp_path / "results_growth_cpu.json").read_text())
    assert [row["evaluations"] for row in curves["members"]["rows"]] == [3, 6]
    assert curves["volume"]["rows"][1]["output_mib"] == 12 * 24**3 * 4 / 2**20
    assert [row["cases"] for row in curves["processes"]["rows"]] == [2, 2]
    assert "### Members, seconds grow with the power" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_of_windows_covers_the_content_with_fewer(tmp_path, monkeypatch):
    rng, data = np.random.default_rng(0), tmp_path / "data"
    for name, shape in (("imagesTr", (20, 16, 16, 4)), ("labelsTr", (20, 16, 16))):
        (data / name).mkdir(parents=True)
        for scan in "ab":
            voxels = rng.integers(1, 3, shape) - ("labels" in name)
            nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), data / name / f"{scan}.nii.gz")
    listed = [{"image": f"./imagesTr/{scan}.nii.gz", "label": f"./labelsTr/{scan}.nii.gz"} for scan in "ab"]
    (data / "dataset.json").write_text(json.dumps({"training": listed}))
    monkeypatch.setattr(windows, "FIELD", (52, 30, 16))
    monkeypatch.setattr(windows, "FIELDS", fields := ("16, field of view", "16, content of the field of view"))
    monkeypatch.setattr(windows, "SETTINGS", tuple((name, 0.25) for name in ("scan", *fields)))
    windows.main(["--dataset_dir", str(data), "--output_dir", str(tmp_path)])
    rows = json.loads((tmp_path / "results_windows.json").read_text())["rows"]
    # windows of 16 voxels that share 4 or more: 4 along 52 voxels, 3 along 30, 2 along 20
    assert [row["count"] for row in rows] == [1, 4 * 3, 2] * 2
    assert rows[0]["case"] != rows[3]["case"]
    assert "times as fast as everywhere" in (tmp_path / "results_windows.md").read_text()


def test_what_does_not_fit_in_the_seconds_is_named_and_a_failure_stops_nothing():
    bench, rows = gpu.Bench(torch.device("cpu"), gpu.DRY, seconds=5), []
    bench.attempt(rows, 1, "short", lambda: {"value": 1})
    bench.attempt(rows, 10, "long", lambda: {"value": 2})
    bench.attempt(rows, 1, "broken", lambda: {"value": 1 / 0})
    assert rows == [{"value": 1, "gpu_peak_mib": None}]
    assert (bench.skipped, bench.failed) == (["long"], {"broken": "ZeroDivisionError: division by zero"})


@pytest.mark.slow
def test_the_dry_run_of_the_gpu_benchmark_measures_every_part(tmp_path):
    gpu.main(["--small", "--device", "cpu", "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "results_cpu.json").read_text())
    assert found["failed"] == {}
    assert found["skipped"] == []
    assert {name for name, rows in found["parts"].items() if not rows} == {"compiled calls"}
    assert found["parts"]["correctness"][0]["pred largest difference"] == 0
    table = (tmp_path / "results_cpu.md").read_text()
    (tmp_path / "results_cpu.md").unlink()
    gpu.main(["--render", str(tmp_path / "results_cpu.json")])
    assert (tmp_path / "results_cpu.md").read_text() == table


def test_the_table_of_the_card_is_that_of_its_numbers():
    numbers = common.ROOT / "benchmarks" / "speed" / "results_gpu.json"
    assert numbers.with_suffix(".md").read_text() == gpu.render(json.loads(numbers.read_text())) + "\n"
