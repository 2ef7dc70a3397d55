"""Contenders are built and counted correctly, and the speed scripts write their tables."""

import json
import math

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from benchmarks import common, gpu
from benchmarks.speed import contenders, growth, rivals
from benchmarks.speed.entries import CONTENDERS, Task, flops
from monai_pdddpm.data import write_phantom
from monai_pdddpm.inferers import EnsembleOutput
from monai_pdddpm.inferers.chain import reverse_chain
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import decode_probabilities

TINY = {"roi_size": [16, 16, 16], "members": 2, "num_steps": 2}


def test_flops_by_hand():
    layer = nn.Conv3d(2, 3, 3, padding=1, device="meta")
    assert rivals.count_flops(lambda: layer(torch.zeros(1, 2, 4, 4, 4, device="meta"))) == 2 * 64 * 27 * 2 * 3


@pytest.mark.parametrize(("wanted", "expected"), [(27, 3), (1, 1), (10**9, 256)])
def test_closest_width(wanted, expected):
    assert rivals.closest_width(wanted, lambda w: w**3) == expected


def test_only_the_chain_is_scaled():
    found = contenders.scaled({"read": 1.0, "chain": 2.0, "total": 4.0}, 250)
    assert found == {"read": 1.0, "chain": 500.0, "total": 502.0}


def test_ratios_are_medians_over_cases():
    def row(*networks):
        return {"by_case": {str(i): {"networks": n, "total": 10.0} for i, n in enumerate(networks)}}

    assert contenders.ratios(row(2.0, 9.0, 8.0), row(1.0, 3.0, 1.0)) == {"networks": 3.0, "total": 1.0}


def test_a_chain_of_monais_scheduler_equals_monais_loop():
    class Half(nn.Module):
        def forward(self, x, timesteps):
            return 0.5 * x[:, :2] + 1e-3 * timesteps.view(-1, 1, 1, 1, 1) * x[:, 2:]

    denoiser = rivals.Concatenated(Half(), 2)
    network = rivals.FromNoise(rivals.NoSegmenter(2), denoiser, prediction="eps", schedule="linear_beta")
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


@pytest.mark.parametrize("name", [n for n in CONTENDERS if n != "segmenter_ensemble"])
def test_flops_of_contenders(name):
    task = Task(common.PHANTOM, overrides=TINY)
    entry, ours = CONTENDERS[name].build(task), CONTENDERS["ours"].build(task)
    counted, expected = flops(entry, task.parser()), flops(ours, task.parser())
    if name in ("fast_ddpm", "ddim", "ddpm"):
        assert rivals.parameters(entry.network) == 10_340_771
        assert counted["segment"] == counted["encode"] == 0
    elif name.startswith("segmenter"):
        assert counted["segment"] == entry.passes * expected["segment"]
        assert counted["call"] == 0
    elif name == "plain_flops":
        assert counted["call"] == pytest.approx(expected["call"], rel=0.15)
    elif name == "ours_rk4":
        assert counted["call"] > 2 * expected["call"]
    else:
        assert counted["segment"] == expected["segment"]


@pytest.mark.slow
def test_the_script_of_contenders_runs(tmp_path, capsys):
    data = tmp_path / "data"
    write_phantom(data, train=1, validation=1, test=0, series=0, annotations=1, size=(16, 16, 16), progress=False)
    command = ["--dataset_dir", str(data), "--bundle", str(common.PHANTOM), "--repeats", "1", "--device", "cpu"]
    command += ["--overrides", json.dumps(TINY), "--only", "ours", "segmenter_flips", "ddim"]
    command += ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    contenders.main(command)
    rows = json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"]
    assert list(rows) == ["ours", "segmenter_flips", "ddim"]
    assert rows["ours"]["times_ours"] == {"networks": 1, "total": 1}
    assert rows["ours"]["denoiser_evaluations"] == 2 * 2
    assert rows["ddim"]["denoiser_evaluations"] == 2 * 50
    assert rows["ddim"]["timed_steps"] == 10
    assert (rows["ddim"]["dice"], rows["ours"]["dice"] is None) == (None, False)
    assert "| DDIM, 50 steps (scaled) |" in capsys.readouterr().out
    assert (tmp_path / "results_contenders_cpu.png").stat().st_size > 5000
    contenders.main(command)  # the measurements are kept
    assert json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"] == rows


def test_slopes_of_a_line():
    line = {n: (float(n), 3 + 0.5 * n) for n in (1, 2, 8, 64)}
    assert growth.slopes(line, 8) == {"behind": 0.5, "before": 0.5, "ratio": 1}
    line[64] = (64.0, line[8][1] + 56 * 2.0)
    assert growth.slopes(line, 8)["ratio"] == 4
    assert growth.slopes(line, 1) is growth.slopes(line, 64) is growth.slopes(line, 5) is None


@pytest.mark.parametrize("windows", [1, 2, 16])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_images_have_the_requested_number_of_windows(windows, overlap):
    assert len(WindowPlan(growth.size_of("windows", windows, [10, 14], overlap), [10, 14], overlap)) == windows


@pytest.mark.parametrize(
    ("curve", "value", "run", "skipped", "evaluations"),
    [
        ("members", 3, 1, 0, 3 * 2),
        ("steps", 3, 1, 0, 2 * 3),
        ("windows", 2, 2, 0, 2 * 2 * 2),
        ("volume", 32, 1, 26, 2 * 2),
    ],
)
def test_points_of_growth(curve, value, run, skipped, evaluations):
    row = growth.run_point(curve, value, str(common.PHANTOM), "cpu", TINY, repeats=1, seconds=60)
    assert (row["windows_run"], row["windows_skipped"], row["denoiser_evaluations"]) == (run, skipped, evaluations)
    assert 0 < row["seconds"]["chain"]["median"] <= row["seconds"]["total"]["median"]
    assert row["peak_mib"] > 0.99 * row["start_mib"] > 0


@pytest.mark.slow
def test_the_script_of_growth_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(growth.CURVES, "members", growth.Curve("members", (1, 2, 3), 2, "member"))
    command = ["--bundle", str(common.PHANTOM), "--curves", "members", "--repeats", "1", "--device", "cpu"]
    command += ["--overrides", json.dumps(TINY), "--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    growth.main(command)
    found = json.loads((tmp_path / "results_growth_cpu.json").read_text())
    assert [row["members"] for row in found["curves"]["members"]] == [1, 2, 3]
    assert set(found["slopes"]["members"]) == {"behind", "before", "ratio"}
    assert (tmp_path / "results_growth_cpu.md").read_text().startswith("### Members")
    assert (tmp_path / "results_growth_cpu.png").stat().st_size > 5000


def test_a_drawn_answer_is_unsure_at_the_surface_only():
    size = gpu.Size((24, 24, 24), common.PHANTOM, balls=1, radius=7)
    image = gpu.balls_image(2, size, torch.device("cpu"))
    probability = gpu.DrawnAnswer(nn.Conv3d(2, 3, 1))(image).softmax(1)[0].detach()
    inside = int((probability.argmax(0) == 1).sum())
    assert abs(inside / (4 / 3 * math.pi * 7**3) - 1) < 0.05
    assert probability[2].max() < 1e-6
    unsure = probability.amax(0) < 0.95
    assert not unsure[12, 12, 12]
    assert not unsure[0, 0, 0]
    assert unsure[12, 12, 18:20].all()


def test_what_does_not_fit_in_the_seconds_is_named_and_a_failure_stops_nothing():
    bench = gpu.Bench(torch.device("cpu"), gpu.DRY, seconds=5)
    assert bench.has(1, "short")
    assert not bench.has(10, "long")
    assert bench.attempt("broken", lambda: 1 / 0) is None
    assert (bench.skipped, bench.failed) == (["long"], {"broken": "ZeroDivisionError: division by zero"})


@pytest.mark.slow
def test_the_dry_run_of_the_gpu_benchmark_measures_every_part(tmp_path):
    gpu.main(["--small", "--device", "cpu", "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "results_gpu.json").read_text())
    assert found["failed"] == {}
    assert found["skipped"] == []
    assert {name for name, rows in found["parts"].items() if not rows} == {"compiled calls", "compiled training"}
    assert found["parts"]["correctness"][0]["pred largest difference"] == 0
    table = (tmp_path / "results_gpu.md").read_text()
    (tmp_path / "results_gpu.md").unlink()
    gpu.main(["--render", str(tmp_path / "results_gpu.json")])
    assert (tmp_path / "results_gpu.md").read_text() == table


def test_the_table_of_the_card_is_that_of_its_numbers():
    numbers = common.ROOT / "benchmarks" / "speed" / "results_gpu.json"
    if not numbers.is_file():
        pytest.skip("not measured yet")
    assert numbers.with_suffix(".md").read_text() == gpu.render(json.loads(numbers.read_text())) + "\n"
