"""Every contender can be built and asked, what is counted is right, and a table comes out of what was measured."""

import json
import re
import shlex
from types import SimpleNamespace

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from benchmarks.speed import closeups, contenders, jobs, measure, report, speed, training
from benchmarks.speed.contenders import CONTENDERS, Task, closest_width, flops
from benchmarks.speed.costs import count_flops, parameters
from benchmarks.speed.options import BUNDLES, HERE
from benchmarks.speed.rivals import Concatenated, FirstSteps, FromNoise, Passes, Silent
from monai_pdddpm.data import labelled_cases, write_phantom
from monai_pdddpm.inferers.chain import Chain, reverse_chain
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import AncestralRule, uniform_steps
from monai_pdddpm.schedulers.processes import DDPMProcess
from monai_pdddpm.utils.errors import UserError

HIPPOCAMPUS, PHANTOM = (BUNDLES / f"{name}_segmentation" for name in ("hippocampus_mri", "phantom"))
TINY = {"roi_size": [16, 16, 16]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed") / "data"
    size = (16, 16, 16)
    write_phantom(folder, train=1, validation=2, test=0, series=0, annotations=1, size=size, progress=False)
    return folder


@pytest.fixture
def small_baseline(monkeypatch):
    monkeypatch.setattr(contenders, "BASELINE_CHANNELS", (32,))
    monkeypatch.setattr(contenders, "BASELINE_ATTENTION", (False,))


def test_flops_by_hand():
    layer = nn.Conv3d(2, 3, 3, padding=1, device="meta")
    assert count_flops(lambda: layer(torch.zeros(1, 2, 4, 4, 4, device="meta"))) == 2 * 64 * 27 * 2 * 3


@pytest.mark.parametrize(("wanted", "expected"), [(27, 3), (1, 1), (30, 5), (10**9, 256)])
def test_closest_width(wanted, expected):
    assert closest_width(wanted, lambda w: w**2 if wanted == 30 else w**3) == expected


def test_steps_that_are_timed():
    assert measure.timed_steps(1000, 20, 5) == 4
    assert measure.timed_steps(1000, 20, 3) == 7
    assert measure.timed_steps(10, 20, 1) == 10
    assert measure.timed_steps(10, 0, 5) == 10


def test_only_the_chain_is_scaled():
    found = measure.scaled({"read": 1.0, "chain": 2.0, "total": 4.0}, 250)
    assert found == {"read": 1.0, "chain": 500.0, "total": 502.0}


def test_median_and_quartiles():
    assert measure.spread([1, 2, 3, 4, 9]) == {"median": 3, "low": 2, "high": 4}


def test_a_chain_of_monais_scheduler_is_monais_own_loop():
    class Half(nn.Module):
        def forward(self, x, timesteps):
            return 0.5 * x[:, :2] + 1e-3 * timesteps.view(-1, 1, 1, 1, 1) * x[:, 2:]

    network = FromNoise(Silent(2), Concatenated(Half(), 2), prediction="eps", schedule="linear_beta")
    image, noise = torch.randn(1, 1, 4, 4, 4), torch.randn(3, 2, 4, 4, 4)
    presegmentation = network.propose(network.segment(image))
    torch.manual_seed(1)
    found = reverse_chain(
        network, presegmentation, network.encode(image, presegmentation), [noise], contenders.vanilla_chain()
    )
    scheduler, x = DDPMScheduler(num_train_timesteps=1000), noise
    torch.manual_seed(1)
    for t in scheduler.timesteps.tolist():
        output = Half()(torch.cat([x, image.expand(3, 1, 4, 4, 4)], dim=1), torch.full((3,), t))
        x, _ = scheduler.step(output, t, x)
    torch.testing.assert_close(found, network.probabilities(x))


def test_ddim_has_fifty_steps_and_ends_at_the_prediction():
    chain = contenders.ddim_chain()
    assert (len(chain.time_steps), chain.time_steps[-1]) == (50, 0)

    class Zero:
        def denoise(self, x_t, t, features):
            return torch.zeros_like(x_t)  # no noise: x_0 is the state, scaled

    x_t = torch.full((1, 2, 4, 4, 4), 0.5)
    predicted = chain.predict(Zero(), x_t, len(chain.time_steps) - 1, [])
    assert torch.allclose(predicted, x_t / chain.scheduler.alphas_cumprod[0].sqrt(), atol=1e-4)


def test_first_steps_draw_the_noise_of_all():
    whole = Chain(uniform_steps(300, 300), AncestralRule(), DDPMProcess())
    part = FirstSteps(whole, 4)
    assert part.time_steps == [299, 298, 297, 296]
    assert part.draws == whole.draws == 300


def test_passes_of_a_segmenter_that_does_not_care_for_flips():
    parser = Task(PHANTOM, overrides=TINY).parser()
    pair = PDDDPM(nn.Conv3d(1, 3, 1), nn.Identity()).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    output = Passes(parser, [(), (0,), (1, 2)])(MetaTensor(image), nn.ModuleList([pair]))
    alone = pair.segment(image)[0]
    mean, entropy, variance, preseg, *_ = output.as_tensor()[0].split([3, 1, 2, 3, 9])
    torch.testing.assert_close(mean, alone, atol=1e-2, rtol=0)  # bfloat16
    torch.testing.assert_close(preseg, alone, atol=1e-2, rtol=0)
    assert output.shape[1] == 9 + 3 * 3
    assert variance.abs().max() < 1e-4
    assert (entropy >= 0).all()
    ran = json.loads(output.meta["inference"][0])
    assert (ran["members"], ran["windows_skipped"], ran["denoiser_evaluations"]) == (3, 1, 0)


def test_weights_that_are_given_are_used(tmp_path, small_baseline):
    build = CONTENDERS["fast_ddpm"].build
    untrained = build(Task(PHANTOM, overrides=TINY))
    torch.save({"model": untrained.network.state_dict()}, tmp_path / "model.pt")
    trained = build(Task(PHANTOM, overrides=TINY, weights=tmp_path / "model.pt"))
    assert (untrained.trained, trained.trained) == (False, True)
    for mine, theirs in zip(trained.network.parameters(), untrained.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_parameters_and_flops_of_the_hippocampus_contenders():
    task = Task(HIPPOCAMPUS, overrides={"roi_size": [48, 64, 48]})
    entries = {name: CONTENDERS[name].build(task) for name in CONTENDERS if name != "segmenter_ensemble"}
    counted = {name: flops(entry, task.parser()) for name, entry in entries.items()}
    # MONAI's baseline, counted apart
    assert parameters(entries["ddpm"].network) == 10_340_771
    assert counted["ddpm"]["call"] == counted["ddim"]["call"] == pytest.approx(273.74e9, rel=1e-4)
    assert counted["ddpm"]["segment"] == counted["ddpm"]["encode"] == 0
    ours = parameters(entries["ours"].pair.denoiser)
    assert parameters(entries["plain_parameters"].pair.denoiser) == pytest.approx(ours, rel=0.1)
    assert counted["plain_flops"]["call"] == pytest.approx(counted["ours"]["call"], rel=0.15)
    assert counted["ours_rk4"]["call"] > counted["ours"]["call"] == counted["ours_euler"]["call"]
    assert counted["segmenter_flips"]["segment"] == 8 * counted["segmenter"]["segment"] > 0
    assert counted["segmenter"]["call"] == 0
    steps = {name: len(entry.chain.time_steps) for name, entry in entries.items() if entry.chain}
    assert (steps["ddpm"], steps["ddim"], steps["fast_ddpm"], steps["paper"]) == (1000, 50, 10, 300)
    assert entries["paper"].inferer.members == entries["ours"].inferer.members
    assert entries["paper"].pair.prediction == "eps"
    assert [name for name, entry in entries.items() if entry.trained] == [
        "ours",
        "ours_one",
        "ours_rk4",
        "ours_euler",
        "segmenter",
        "segmenter_flips",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_is_measured(name, data, small_baseline):
    cases = labelled_cases(data, "validation")
    found = measure.measure(name, Task(PHANTOM, members=2, overrides=TINY), cases, repeats=1, num_steps=2)
    assert set(found["seconds"]) == {*measure.STAGES, "networks", "total"}
    assert set(found["by_case"]) == {"phantom_001", "phantom_002"}
    parts = sum(found["seconds"][stage]["median"] for stage in measure.NETWORK_STAGES)
    assert parts <= found["seconds"]["total"]["median"]
    assert found["flops"]["case"] > 0
    assert found["peak_mib"] > 0.99 * found["start_mib"] > 0  # the kernel counts to a few pages
    whole = found["timed_steps"] == found["num_steps"]
    assert whole == (name not in ("ddpm", "ddim", "fast_ddpm", "paper"))
    trained = name.startswith("ours") or name in ("segmenter", "segmenter_flips")
    assert (found["dice"] is not None) == (whole and trained)
    if found["num_steps"] and found["windows_run"]:
        members = 1 if name == "ours_one" else 2
        assert found["denoiser_evaluations"] == pytest.approx(members * found["num_steps"] * found["windows_run"])


def row(name, seconds, **changes):
    quartiles = {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
    content = {
        "title": CONTENDERS[name].title,
        "members": 8,
        "num_steps": 5,
        "timed_steps": 5,
        "seconds": dict.fromkeys((*measure.STAGES, "networks", "total"), quartiles),
        "by_case": {c: {"networks": f * seconds, "total": 2 * f * seconds} for c, f in (("a", 1), ("b", 2), ("c", 9))},
        "denoiser_evaluations": 40.0,
        "parameters": {"denoiser": 2e6, "all": 3e6},
        "flops": {"segment": 0, "encode": 0, "call": 17_000_000_000, "case": 680_000_000_000},
        "start_mib": 500.0,
        "peak_mib": 750.0,
        "gpu_peak_mib": None,
        "dice": None,
        "yardstick_seconds": 0.02,
        "at": "2000-01-01 00:00",
    }
    return content | changes


def test_ratios_are_paired_over_cases():
    base, other = row("ours", 2.0), row("ddpm", 5.0)
    assert report.ratios(other, base) == {"networks": 2.5, "total": 2.5}
    assert report.ratios(other, None) == {"networks": None, "total": None}


def test_table_and_figure(tmp_path):
    rows = {"ours": row("ours", 2.0, dice=0.887), "ddpm": row("ddpm", 9000.0, timed_steps=1, yardstick_seconds=0.03)}
    for line in rows.values():
        line["times_ours"] = report.ratios(line, rows["ours"])
    ours, ddpm = report.contenders_table(rows).splitlines()[2:]
    assert ours.startswith("| ours | 8 | 5 | 3.00 | 2.00 | 17 | 680 | 40 | 2 | 2 | 2 | 2 | 6 | 2 | 2 | 2 |")
    assert ours.endswith("| 1 | 1 | 750 (+250) | 0.8870 |")
    assert ddpm.startswith("| DDPM, 1000 steps (scaled) |")
    assert ddpm.endswith("| 9000 [8100, 9900] | 9000 [8100, 9900] | 4500 | 4500 | 750 (+250) | - |")
    assert "20.0 to 30.0 ms: ratios are good to a factor of 1.50" in report.steadiness(rows)
    report.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_what_was_measured_is_kept(tmp_path, data, monkeypatch, capsys):
    asked, kept_memory = [], []

    def run(command, env, check):
        job = json.loads(command[command.index("--job") + 1])
        asked.append((job["contender"], job["overrides"].get("inferer::member_batch"), env.get("OMP_NUM_THREADS")))
        kept_memory.append(job.get("keep_memory"))
        found = row(job["contender"], 2.0)
        del found["at"]
        with open(command[command.index("--job_file") + 1], "w") as file:
            json.dump(found, file)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(jobs, "commit", lambda: "abc")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    common = ["--dataset_dir", str(data), "--bundle", str(PHANTOM), "--cases", "1", "--device", "cpu"]
    common += ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    speed.main([*common, "--only", "segmenter"])
    assert [c for c, *_ in asked] == ["segmenter"]
    speed.main([*common, "--only", "segmenter", "ours"])
    assert [c for c, *_ in asked] == ["segmenter", "ours"]
    kept = json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"]
    assert list(kept) == ["ours", "segmenter"]
    assert kept["segmenter"]["times_ours"]["networks"] == 1
    assert kept["segmenter"]["commit"] == "abc"
    speed.main([*common, "--only", "ours", "--repeats", "1"])  # other settings: measured anew, and alone in the table
    assert len(asked) == 3
    assert list(json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"]) == ["ours"]
    speed.main([*common, "--only", "ours", "--repeats", "1", "--again"])
    assert len(asked) == 4
    speed.main([*common, "--threads", "1", "2", "--member_batch", "4"])
    assert asked[4:] == [("ours", None, "1"), ("ours", None, "2"), ("ours", 4, None)]
    assert (tmp_path / "results_threads_cpu.md").read_text().startswith("| threads |")
    assert (tmp_path / "results_member_batch_cpu.json").is_file()
    speed.main([*common, "--switches"])
    assert len(asked) == 7 + len(speed.SWITCHES)
    assert kept_memory[7:].count(False) == 1
    assert speed.chosen_switches(["compiled"]) == ["as shipped", "compiled"]
    table = (tmp_path / "results_switches_cpu.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2 : 2 + len(speed.SWITCHES)]] == [f"| {n}" for n in speed.SWITCHES]
    assert "bfloat16" in capsys.readouterr().out

    failing = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=9))
    monkeypatch.setattr(jobs, "subprocess", failing)
    with pytest.raises(UserError, match="ddim: its process ended with 9"):
        speed.main([*common, "--only", "ddim"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "0"], "cases: found 0"),
        (["--threads", "0"], r"threads: found \[0\]"),
        (["--weights", "magic=x.pt"], "found 'magic=x.pt', expected contender=file"),
        (["--weights", "ddpm=missing.pt"], "a file that exists"),
        (["--overrides", "{"], "overrides: found '{', expected JSON"),
    ],
)
def test_mistakes_are_told_at_once(options, message):
    with pytest.raises(UserError, match=message):
        speed.main(options)


def test_commands_of_the_readme_are_understood():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^python .*", text, re.MULTILINE)]
    scripts = {f"benchmarks/speed/{script.__name__.rpartition('.')[2]}.py": script for script in (speed, training)}
    for _, file, *options in commands:
        scripts[file].parse(options)
    assert {file for _, file, *_ in commands} == set(scripts)


def test_share_of_convolutions():
    def event(key, cpu, gpu):
        return SimpleNamespace(key=key, self_cpu_time_total=cpu, self_device_time_total=gpu)

    events = [event("aten::mkldnn_convolution", 6, 8), event("aten::add", 2, 2), event("volta_conv_kernel", 0, 99)]
    assert closeups.share_of_convolutions(events, on_gpu=False) == 0.75
    assert closeups.share_of_convolutions(events, on_gpu=True) == 0.8


@pytest.mark.slow
def test_profile_and_layout_run(tmp_path, small_baseline, capsys):
    overrides = json.dumps({**TINY, "num_steps": 2})
    common = ["--device", "cpu", "--members", "2", "--repeats", "1", "--overrides", overrides]
    speed.main([*common, "--output_dir", str(tmp_path), "--profile", "--layout"])
    found = json.loads((tmp_path / "results_profile_cpu.json").read_text())
    assert (found["members"], found["num_steps"]) == (2, 2)
    ours = [f"ours: {what}" for what in ("the chain", "denoiser, batch 1", "denoiser, batch 2", "segmenter", "encoder")]
    theirs = [f"DDPM, 1000 steps: denoiser, batch {batch}" for batch in (1, 2)]
    assert list(found["convolutions"]) == [*ours, *theirs]
    assert all(len(shares) == 1 and 0 < shares[0] < 1 for shares in found["convolutions"].values())
    assert "convolution" in (tmp_path / "results_profile_cpu.md").read_text()
    lines = json.loads((tmp_path / "results_layout_cpu.json").read_text())["rows"]
    assert [line["network"] for line in lines if line["contender"] == "ours"] == [
        "denoiser, batch 1",
        "denoiser, batch 2",
        "segmenter",
        "encoder",
    ]


@pytest.mark.slow
def test_a_contender_runs_in_a_process_of_its_own(tmp_path, data):
    common = ["--dataset_dir", str(data), "--bundle", str(PHANTOM), "--cases", "1", "--device", "cpu"]
    common += ["--members", "1", "--repeats", "1", "--overrides", json.dumps({**TINY, "num_steps": 1})]
    speed.main([*common, "--only", "ours", "--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)])
    (found,) = json.loads((tmp_path / "results_contenders_cpu.json").read_text())["rows"].values()
    assert found["times_ours"] == {"networks": 1, "total": 1}
    assert 0 <= found["dice"] <= 1
    assert (tmp_path / "results_contenders_cpu.png").stat().st_size > 5000


def test_results_tell_no_folders(tmp_path):
    rows = {"ours": {"asked": {"bundle": "/home/me/bundles/it", "cases": [{"image": "/data/a.nii.gz"}]}, "dice": 0.5}}
    report.write("it", {"rows": rows}, "table", tmp_path)
    asked = {"bundle": "it", "cases": [{"image": "a.nii.gz"}]}
    assert json.loads((tmp_path / "results_it.json").read_text()) == {"rows": {"ours": {"asked": asked, "dice": 0.5}}}
