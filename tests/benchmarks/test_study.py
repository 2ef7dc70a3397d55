"""The study fits the bundle; contenders and measures are right on known inputs."""

import json
import math
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from benchmarks import common
from benchmarks.trust import contenders, measures, report, robustness, study, training
from monai_pdddpm.data import write_phantom
from monai_pdddpm.schedulers import AncestralRule
from monai_pdddpm.utils.errors import UserError

STUDY = study.read_study()
ROWS = {row["name"]: row for row in STUDY["rows"]}


def options(tmp_path, **changes):
    kept = {"dataset_dir": tmp_path, "device": "cpu", "scale": 1.0, "stages": study.STAGES, "work": tmp_path}
    return SimpleNamespace(**{**kept, **changes})


def test_every_row_and_sweep_uses_networks_of_the_study(tmp_path):
    copies = training.copies_of(STUDY)
    assert {copies[name] for name in copies} == set(STUDY["networks"])
    assert len(ROWS) == len(STUDY["rows"])
    assert report.BASELINE in ROWS
    tasks = study.tasks_of(STUDY, options(tmp_path))
    assert all(other in tasks for needed in tasks.values() for other in needed)
    folds = [("train", f"fold_segmenter_{fold}") for fold in range(5)]
    assert tasks["train", "denoiser_0"] == tasks["train", "residual_0"] == folds
    assert tasks["train", "no_channel_0"] == tasks["train", "phantom_denoiser_0"] == [("prepare", "")]
    parts = [("train", name) for name in ("segmenter_0", *["segmenter_continued_0"] * 3)]
    assert tasks["measure", "4 checkpoints of one cyclic run"] == parts
    assert tasks["train", "segmenter_continued_0"] == [("train", "segmenter_0")]
    assert tasks["sweep", "hippocampus residual 664"] == [("train", "residual_0"), ("train", "segmenter_0")]
    assert ("sweep", "hippocampus residual 700") not in tasks
    assert {kind for kind, _ in study.tasks_of(STUDY, options(tmp_path, stages=["measure", "report"]))} == {"measure"}
    assert study.tasks_of(STUDY, options(tmp_path, stages=["report"])) == {}


@pytest.mark.parametrize("name", STUDY["networks"])
def test_settings_exist_and_networks_can_be_built(name, tmp_path):
    network = STUDY["networks"][name]
    plain = training.read_training(
        {key: value for key, value in network.items() if key != "settings"}, options(tmp_path)
    )
    for key in network.get("settings", {}):
        parent = key.rpartition("::")[0]
        # An unknown key would be ignored; a class checks its own arguments.
        assert key in plain or plain[parent].get("_target_"), key
    parser = training.read_training(network, options(tmp_path))
    parser.get_parsed_content("network_def")
    parser.get_parsed_content("loss")


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.get("settings")])
def test_settings_of_every_row_make_an_inferer(name):
    settings = ROWS[name]["settings"]
    config = common.make_inferer(common.read_bundle(common.HIPPOCAMPUS, settings)).config
    if "start_step" in settings:
        assert config.time_steps[0] == settings["start_step"] - 1
    if "num_steps" in settings:
        assert len(config.time_steps) == settings["num_steps"]
    if "rule" in settings:
        assert config.rule == AncestralRule("fixed_large")


def test_a_failed_training_leaves_out_what_needs_it(monkeypatch, capsys):
    class AtOnce:
        """A pool that works at once; training `b` fails."""

        def __init__(self, *args, **kwargs): ...
        def __enter__(self):
            return self

        def __exit__(self, *args): ...
        def submit(self, run, task, args):
            future = Future()
            if task[1] == "b":
                future.set_exception(ValueError("no luck"))
            else:
                future.set_result(None)
            return future

    monkeypatch.setattr(study, "ProcessPoolExecutor", AtOnce)
    a, b = ("train", "a"), ("train", "b")
    tasks = {a: [], b: [], ("measure", "x"): [a], ("measure", "y"): [a, b]}
    study.run_all(tasks, SimpleNamespace(parallel=2, seconds=math.inf))
    lines = [line.partition(" s: ")[2] or line for line in capsys.readouterr().out.splitlines()]
    assert sorted(lines) == ["measure x: done", "measure y: left out", "train a: done", "train b: no luck"]


def test_measures_by_hand():
    label = torch.zeros(6, 6, 6, dtype=torch.long)
    label[2:4, 2:4, 2:4] = 1
    right = torch.nn.functional.one_hot(label, 2).movedim(-1, 0).float()
    shifted = right.roll(1, dims=1)  # four of eight voxels stay: IoU 1/3
    found = measures.measure(right, torch.stack([right, shifted]), label, 0.5)
    assert (found["dice"], found["one_dice"]) == (1, 1)
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert found["disagreement"] == pytest.approx((2 / 3) / (1 / 3))
    assert found["ged"] == pytest.approx(2 * (2 / 3) / 2 - 2 / 3)
    assert math.isnan(found["volume_z"])  # equal volumes
    assert found["crps_ml"] == 0
    assert "ged" not in measures.measure(right, right[None], label, 0.5)


def test_a_case_is_calibrated_with_the_temperature_of_other_subjects():
    generator = torch.Generator().manual_seed(0)
    items, answers = [], []
    for number in range(1, 7):  # three subjects with two scans
        right = torch.randn(2, 12, 12, 12, generator=generator).softmax(0)
        label = (torch.rand(12, 12, 12, generator=generator) < right[1]).long()
        answers.append(rivals_sharpened(right))
        items.append({"case": f"scan_{number}", "image": torch.tensor(number - 1), "label": label, "voxel_ml": 1.0})
    found = measures.measure_all(lambda i: (answers[int(i)], answers[int(i)][None]), items, "sharp")
    cases = found["cases"]
    assert cases["scan_1"]["calibrated_temperature"] == cases["scan_2"]["calibrated_temperature"]
    assert cases["scan_1"]["calibrated_temperature"] == pytest.approx(2, rel=0.1)
    assert cases["scan_1"]["calibrated_nll"] < cases["scan_1"]["nll"]
    assert found["pooled"]["calibrated"]["ece"] < found["pooled"]["raw"]["ece"]


def rivals_sharpened(probability):
    """Sharpen by a temperature of 1/2, which a temperature of 2 reverts."""
    return probability.square() / probability.square().sum(0)


def test_a_field_has_the_probabilities_of_each_voxel():
    probability = torch.tensor([[0.2, 1.0], [0.5, 0.0], [0.3, 0.0]])
    field = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([contenders.field_labels(probability, one) for one in field])
    frequency = torch.stack([(labels == k).float().mean(0) for k in range(3)])
    torch.testing.assert_close(frequency, probability, atol=0.01, rtol=0)


def test_low_rank_logits_have_the_mean_and_covariance():
    # K = 1, two voxels, rank 1: covariance factor (1, 2), variances 0.25 and 1.
    parameters = torch.tensor([[[3.0, -1.0], [math.log(0.25), 0.0], [1.0, 2.0]]])
    drawn = contenders.sample_logits(parameters, 1, 40_000, torch.Generator().manual_seed(0))[:, 0, 0]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([3.0, -1.0]), atol=0.05, rtol=0)
    expected = torch.tensor([[1.25, 2.0], [2.0, 5.0]])
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.1, rtol=0)


def test_stochastic_loss_without_variance_is_the_cross_entropy():
    logits, label = torch.randn(2, 3, 4, 4, 4), torch.randint(3, (2, 1, 4, 4, 4))
    certain = torch.cat([logits, torch.full_like(logits, -100), torch.zeros_like(logits)], dim=1)
    found = contenders.StochasticLoss(3, samples=4)(certain, label)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, label[:, 0]).item(), rel=1e-5)


def test_flips_are_reverted():
    parser = common.read_bundle(common.HIPPOCAMPUS)
    network = parser.get_parsed_content("network_def").eval()
    network.segmenter = torch.nn.Conv3d(1, 3, 1)  # commutes with flips
    image = torch.randn(1, 1, *parser["roi_size"])
    mean, drawn = contenders.passes(parser, [network], [(), (0,), (1, 2)])(image)
    alone, _ = contenders.passes(parser, [network])(image)
    assert len(drawn) == 3
    torch.testing.assert_close(mean, alone, atol=1e-2, rtol=0)  # bfloat16


def test_each_network_of_an_ensemble_answers_for_itself(monkeypatch, tmp_path):
    class Sure(torch.nn.Module):
        def __init__(self, label):
            super().__init__()
            self.label = label

        def forward(self, image):
            return 9.0 * torch.nn.functional.one_hot(image[:, 0].long() * 0 + self.label, 3).movedim(-1, 1)

    monkeypatch.setattr(training, "load_segmenter", lambda study, name, args: Sure(int(name[-1])))
    row = {"kind": "passes", "networks": ["segmenter_1", "segmenter_2"]}
    _, drawn = contenders.contender(row, STUDY, options(tmp_path))(torch.zeros(1, 1, 40, 56, 40))
    assert [member.argmax(0).unique().tolist() for member in drawn] == [[1], [2]]


def measured_row(dice, ece):
    cases = {f"scan_{i}": {"dice": d, "ece": ece, "calibrated_ece": ece / 2} for i, d in enumerate(dice)}
    pooled = {"raw": {"ece": ece}, "calibrated": {"ece": ece / 4}}
    cost = {"batches_of_training": 9, "seconds_per_case": 0.25, "at": "now", "commit": "abc"}
    return {**cost, "cases": cases, "pooled": pooled}


def test_report(tmp_path, capsys):
    files = {name: tmp_path / f"{name}.json" for name in ("segmenter", "better", "missing")}
    with pytest.raises(UserError, match="no measurement of the segmenter"):
        report.write(files, "results_study", tmp_path, 1.0)
    common.write_json(files["segmenter"], measured_row([0.8, 0.9], 0.04))
    common.write_json(files["better"], measured_row([0.82, 0.92], 0.01))
    report.write(files, "results_study", tmp_path, 1.0)
    _, better = json.loads((tmp_path / "results_study.json").read_text())["rows"]
    assert better["dice"]["mean"] == pytest.approx(0.87)
    assert better["calibrated_ece_difference"]["mean"] == pytest.approx(-0.015)
    printed = capsys.readouterr().out
    assert "| better | 2 | 0.8700 [+0.0200, +0.0200] |" in printed
    assert report.METHOD not in printed
    assert (tmp_path / "results_study.png").stat().st_size > 5000


def test_later_rows_join_the_table_in_pairs(tmp_path, capsys):
    files = {name: tmp_path / f"{name}.json" for name in ("segmenter", report.METHOD, "half")}
    common.write_json(files[report.METHOD], measured_row([0.82, 0.92], 0.01))
    common.write_json(files["segmenter"], measured_row([0.8, 0.9], 0.04))
    report.write(files, "results_study", tmp_path, 1.0)
    for path in (files["segmenter"], files[report.METHOD]):
        path.unlink()  # the table alone is kept
    common.write_json(files["half"], measured_row([0.85], 0.01))
    capsys.readouterr()
    report.write(files, "results_study", tmp_path, 1.0)
    printed = capsys.readouterr().out
    assert f"| {report.METHOD} | 2 | 0.8700 [+0.0200, +0.0200] |" in printed
    assert "| segmenter | +0.0200 [+0.0200, +0.0200] | - | -0.0150 [-0.0150, -0.0150] | - | - |" in printed
    assert "| half | -0.0300 [-0.0300, -0.0300] | - | +0.0000 [+0.0000, +0.0000] | - | - |" in printed
    with pytest.raises(UserError, match="results of scale 1"):
        report.write(files, "results_study", tmp_path, 0.5)


def test_rows_without_the_values_of_each_case_have_a_difference_without_interval():
    segmenter, better = report.summary({"segmenter": measured_row([0.8, 0.9], 0.04), "better": measured_row([1], 0)})
    old = {**segmenter, "values": {}}
    one, two = report.summary({"equal": measured_row([0.7, 0.9], 0.04)}, [old])
    assert one["dice_difference"] == segmenter["dice_difference"]  # nothing new to compare
    assert two["dice_difference"]["mean"] == pytest.approx(-0.05)
    assert "| equal | 2 | 0.8000 | - | - | 0.0400 |" in report.as_markdown([one, two])
    assert report.difference({**better, "values": {}}, old, "dice")["mean"] is None  # other cases


@pytest.mark.parametrize("kind", robustness.DEGREES)
def test_worse_scans_are_normalized_and_differ(kind):
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.randn(1, 1, 6, 6, 6), size=(24, 24, 24), mode="trilinear")[0]
    image = (image - image.mean()) / image.std()
    first, last = (robustness.degrade(image, kind, robustness.DEGREES[kind][i], seed=0) for i in (0, 2))
    assert first.shape == image.shape
    assert first.mean().item() == pytest.approx(0, abs=1e-4)
    assert first.std().item() == pytest.approx(1, abs=1e-2)
    changes = [float((worse - image).abs().mean()) for worse in (first, last)]
    assert min(changes) > 0
    assert "bias field" in kind or changes[0] < changes[1]  # a strong field also changes the normalization


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_phantom(folder, train=10, validation=4, test=0, annotations=1, size=(16, 16, 16))
    return folder


@pytest.mark.slow
def test_the_study_trains_measures_and_reports(tmp_path, data):
    short = {"batches": 1, "batch_size": 1}
    content = {
        **STUDY,
        "budgets": {
            "segmenter": short,
            "denoiser": short,
            "fold": short,
            "continued": {**short, "batches": 2, "cycles": 2},
        },
        "networks": {n: STUDY["networks"][n] for n in ("fold_segmenter", "segmenter_continued", "denoiser")}
        | {"segmenter": {}},
        "rows": [
            ROWS["segmenter"],
            {
                **ROWS["4 checkpoints of one cyclic run"],
                "networks": ["segmenter_continued_0:1", "segmenter_continued_0:2"],
            },
            {**ROWS["PD-DDPM, 1 call"], "settings": {"num_steps": 1, "members": 2}},
        ],
        "sweep": {**STUDY["sweep"], "calls": [1], "starts": [], "every": 2, "hippocampus": {"denoiser": [300, 300]}}
        | {"phantom": {}},
    }
    common.write_json(tmp_path / "study.json", content)
    command = [
        "--dataset_dir",
        str(data),
        "--study",
        str(tmp_path / "study.json"),
        "--device",
        "cpu",
        "--parallel",
        "2",
    ]
    command += ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    study.main(command)
    rows = json.loads((tmp_path / "results_study.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [row["name"] for row in content["rows"]]
    assert rows[1]["batches_of_training"] == 3  # with the segmenter that it continues
    assert rows[2]["batches_of_training"] == 7  # with five segmenters of other folds
    assert rows[2]["seconds_per_case"] > 0
    job = json.loads((tmp_path / "results_sweep.json").read_text())["jobs"][0]
    assert job["job"] == "hippocampus denoiser 300"
    weights = tmp_path / "work" / "denoiser_0" / "model_1.pt"
    before = weights.stat().st_mtime_ns
    study.main([*command, "--stages", "train"])
    assert weights.stat().st_mtime_ns == before  # finished work is not repeated


@pytest.mark.slow
def test_robustness_runs(tmp_path, data, monkeypatch):
    monkeypatch.setattr(robustness, "DEGREES", {"blur": (0.6,), "bias field": (0.3,)})
    command = ["--dataset_dir", str(data), "--every", "2", "--device", "cpu"]
    robustness.main([*command, "--work", str(tmp_path), "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "results_robustness.json").read_text())["results"]
    assert set(found) == {"shipped segmenter", "shipped ensemble"}
    assert 0 <= found["shipped ensemble"]["blur"]["best_aurc"] <= found["shipped ensemble"]["blur"]["aurc"]
    assert (tmp_path / "results_robustness.png").stat().st_size > 5000
