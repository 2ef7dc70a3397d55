"""Every variant of the study fits the bundle; contenders and measures are right on known inputs."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser

from benchmarks import common
from benchmarks.trust import measures, report, rivals, robustness, study
from monai_pdddpm.data import write_phantom
from monai_pdddpm.schedulers import DDIMRule
from monai_pdddpm.utils.errors import UserError

VARIANTS = study.read_variants()


def test_order_names_every_file_once_and_rows_have_unique_names():
    files = {path.stem for path in (study.HERE / "variants").glob("*.json")} - {"base", "order"}
    assert set(VARIANTS) == files
    assert len(VARIANTS) <= 12
    rows = [row["name"] for _, row in study.rows_of(VARIANTS)]
    assert len(rows) == len(set(rows))
    assert report.BASELINE in rows
    with pytest.raises(UserError, match="found magic"):
        study.read_variants(["magic"])


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_exist_and_networks_can_be_built(name):
    variant = VARIANTS[name]
    parser = ConfigParser()
    parser.read_config([common.HIPPOCAMPUS / "configs" / file for file in variant["stage"]])
    for key, value in study.settings_of(variant, "common", "train").items():
        parent = key.rpartition("::")[0]
        assert not parent or parent in parser, key
        # An unknown key would be ignored; a class checks its own arguments.
        assert key in parser or parser[parent].get("_target_"), key
        parser[key] = value
    parser.update({"bundle_root": str(common.HIPPOCAMPUS), "device": "cpu"})
    parser.get_parsed_content("network_def")
    parser.get_parsed_content("loss")


@pytest.mark.parametrize(("name", "row"), [(n, r) for n, r in study.rows_of(VARIANTS) if "contender" not in r])
def test_settings_of_every_row_make_an_inferer(name, row):
    settings = study.settings_of(VARIANTS[name], "common", "infer") | row.get("infer", {})
    config = common.make_inferer(common.read_bundle(common.HIPPOCAMPUS, settings)).config
    assert config.time_steps[0] == settings["start_step"] - 1
    assert len(config.time_steps) == settings["num_steps"]
    assert config.members == settings["members"]
    if "rule::eta" in settings:
        assert config.rule == DDIMRule(settings["rule::eta"])


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
    labels = torch.stack([rivals.field_labels(probability, one) for one in field])
    frequency = torch.stack([(labels == k).float().mean(0) for k in range(3)])
    torch.testing.assert_close(frequency, probability, atol=0.01, rtol=0)


def test_low_rank_logits_have_the_mean_and_covariance():
    # K = 1, two voxels, rank 1: covariance factor (1, 2), variances 0.25 and 1.
    parameters = torch.tensor([[[3.0, -1.0], [math.log(0.25), 0.0], [1.0, 2.0]]])
    drawn = rivals.sample_logits(parameters, 1, 40_000, torch.Generator().manual_seed(0))[:, 0, 0]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([3.0, -1.0]), atol=0.05, rtol=0)
    expected = torch.tensor([[1.25, 2.0], [2.0, 5.0]])
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.1, rtol=0)


def test_stochastic_loss_without_variance_is_the_cross_entropy():
    logits, label = torch.randn(2, 3, 4, 4, 4), torch.randint(3, (2, 1, 4, 4, 4))
    certain = torch.cat([logits, torch.full_like(logits, -100), torch.zeros_like(logits)], dim=1)
    found = rivals.StochasticLoss(3, samples=4)(certain, label)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, label[:, 0]).item(), rel=1e-5)


def test_flips_are_reverted():
    parser = common.read_bundle(common.HIPPOCAMPUS)
    network = parser.get_parsed_content("network_def").eval()
    network.segmenter = torch.nn.Conv3d(1, 3, 1)  # commutes with flips
    image = torch.randn(1, 1, *parser["roi_size"])
    mean, drawn = rivals.passes(parser, [network], [(), (0,), (1, 2)])(image)
    alone, _ = rivals.passes(parser, [network])(image)
    assert len(drawn) == 3
    torch.testing.assert_close(mean, alone, atol=1e-2, rtol=0)  # bfloat16


def test_report(tmp_path, capsys):
    def row(dice, ece):
        cases = {f"scan_{i}": {"dice": d, "ece": ece, "calibrated_ece": ece / 2} for i, d in enumerate(dice)}
        pooled = {"raw": {"ece": ece}, "calibrated": {"ece": ece / 4}}
        cost = {"minutes_of_training": 3.2, "seconds_per_case": 0.25, "at": "now", "commit": "abc"}
        return {**cost, "cases": cases, "pooled": pooled}

    files = {name: tmp_path / f"{name}.json" for name in ("segmenter", "better", "missing")}
    with pytest.raises(UserError, match="no measurement of the segmenter"):
        report.write(files, "results_fold", tmp_path)
    common.write_json(files["segmenter"], row([0.8, 0.9], 0.04))
    common.write_json(files["better"], row([0.82, 0.92], 0.01))
    report.write(files, "results_fold", tmp_path)
    _, better = json.loads((tmp_path / "results_fold.json").read_text())["rows"]
    assert better["dice"]["mean"] == pytest.approx(0.87)
    assert better["calibrated_ece_difference"]["mean"] == pytest.approx(-0.015)
    assert "| better | 2 | 0.8700 [+0.0200, +0.0200] |" in capsys.readouterr().out
    assert (tmp_path / "results_fold.png").stat().st_size > 5000


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
    assert kind == "bias field" or changes[0] < changes[1]  # a strong field also changes the normalization


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_phantom(folder, train=10, validation=4, test=0, series=0, annotations=1, size=(16, 16, 16), progress=False)
    return folder


@pytest.mark.slow
def test_the_study_trains_measures_and_reports(tmp_path, data, monkeypatch):
    tiny = {
        "roi_size": [16, 16, 16],
        "precision": "float32",
        "batch_size": 2,
        "num_workers": 0,
        "train::dataset::cache_rate": 0.0,
    }
    for name in ("segmenter", "segmenter_cyclic", "segmenter_stochastic", "narrow"):
        changed = dict(VARIANTS[name]) | {"copies": 1, "rows": list(VARIANTS[name]["rows"])}
        changed["train"] = changed.get("train", {}) | tiny
        changed["common"] = changed.get("common", {}) | {"roi_size": [16, 16, 16]}
        changed["rows"] = [row for row in changed["rows"] if "copies" not in row][:5]
        monkeypatch.setitem(VARIANTS, name, changed)
    monkeypatch.setattr(study, "read_variants", lambda names=(): {n: VARIANTS[n] for n in names or ["segmenter"]})
    command = ["--dataset_dir", str(data), "--bundle", str(common.PHANTOM), "--epochs", "1", "--device", "cpu"]
    command += ["--on", "validation", "--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    study.main([*command, "--only", "segmenter", "segmenter_cyclic", "segmenter_stochastic", "narrow"])
    rows = json.loads((tmp_path / "results_validation.json").read_text())["rows"]
    assert rows[0]["name"] == "segmenter"
    measured = {path.stem for path in (tmp_path / "work" / "rows" / "validation").glob("*.json")}
    assert {
        "checkpoints of one cyclic run",
        "stochastic segmentation network, rank 10",
        "the denoiser called once",
    } <= measured
    args = SimpleNamespace(bundle=common.PHANTOM, work=tmp_path / "work", device="cpu")
    assert study.is_done(args.work / "narrow_0")
    state = json.loads((args.work / "narrow_0" / "training.json").read_text())
    study.train("narrow_0", VARIANTS["narrow"], 0, 0, args)  # is not repeated
    assert json.loads((args.work / "narrow_0" / "training.json").read_text()) == state


@pytest.mark.slow
def test_robustness_runs(tmp_path, data, monkeypatch):
    monkeypatch.setattr(robustness, "DEGREES", {"blur": (0.6,), "bias field": (0.3,)})
    command = ["--dataset_dir", str(data), "--bundle", str(common.PHANTOM), "--every", "2", "--device", "cpu"]
    robustness.main([*command, "--work", str(tmp_path), "--output_dir", str(tmp_path)])
    found = json.loads((tmp_path / "results_robustness.json").read_text())["results"]
    assert set(found) == {"segmenter", "ensemble"}
    assert 0 <= found["ensemble"]["blur"]["best_aurc"] <= found["ensemble"]["blur"]["aurc"]
    assert (tmp_path / "results_robustness.png").stat().st_size > 5000
