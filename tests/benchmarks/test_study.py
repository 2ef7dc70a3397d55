"""Every variant of the study fits the bundle, and the report says what the measurements hold."""

import json
import re

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.utils import pixelshuffle

from benchmarks.trust import design, measuring, report, study
from benchmarks.trust.rivals import Refiner, SeparableODEUNet, SubPixelODEUNet, UntiedODEUNet
from monai_pdddpm.networks import ODEUNet
from monai_pdddpm.schedulers import DDIMRule

VARIANTS = study.read_variants()
BUNDLE = study.ROOT / "bundles" / "hippocampus_mri_segmentation"


def test_order_names_every_file_once_and_rows_have_names_of_their_own():
    files = {path.stem for path in (study.HERE / "variants").glob("*.json")} - {"base", "order"}
    assert set(VARIANTS) == files
    rows = [row["name"] for _, row in study.rows_of(VARIANTS)]
    assert len(rows) == len(set(rows))
    assert report.BASELINE in rows
    with pytest.raises(SystemExit, match="found magic"):
        study.read_variants(["magic"])


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_exist_and_networks_can_be_built(name):
    variant = VARIANTS[name]
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / file for file in variant["stage"]])
    base = study.base_settings() if variant["stage"][0] == "train.json" else {}
    for part in ("common", "train"):
        for key, value in {**base.get(part, {}), **variant.get(part, {})}.items():
            parent = key.rpartition("::")[0]
            assert not parent or parent in parser, key
            # what no configuration knows would be passed over silently; a class checks its own arguments
            assert key in parser or parser[parent].get("_target_"), key
            parser[key] = value
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    parser.get_parsed_content("network_def")
    if name != "segmenter" and variant["stage"][0] == "train.json":
        parser.get_parsed_content("loss")
        assert parser.get_parsed_content("trained_steps")


@pytest.mark.parametrize(("name", "row"), [(n, r) for n, r in study.rows_of(VARIANTS) if "infer" in r])
def test_settings_of_every_row_make_an_inferer(name, row):
    base = study.base_settings()
    settings = {**base["common"], **base["infer"], **VARIANTS[name].get("common", {}), **row["infer"]}
    parser = measuring.read_bundle(BUNDLE, settings)
    inferer = parser.get_parsed_content("inferer")
    assert inferer.chain.time_steps[0] == settings["start_step"] - 1
    assert inferer.members == settings["members"]
    assert len(inferer.chain.time_steps) == settings["num_steps"]
    if "rule::eta" in settings:
        assert inferer.chain.rule == DDIMRule(settings["rule::eta"])


def test_a_refiner_looks_at_neither_state_nor_time():
    refiner = Refiner(torch.nn.Conv3d(1 + 3, 3, 1), num_classes=3)
    features = refiner.encode(torch.randn(1, 1, 4, 4, 4), torch.rand(1, 3, 4, 4, 4))
    first, second = (refiner.denoise(torch.randn(2, 3, 4, 4, 4), torch.tensor([t]), features) for t in (5, 900))
    assert torch.equal(first, second)
    assert first.shape == (2, 3, 4, 4, 4)


def test_measures_by_hand():
    label = torch.zeros(6, 6, 6, dtype=torch.long)
    label[2:4, 2:4, 2:4] = 1
    right = torch.nn.functional.one_hot(label, 2).movedim(-1, 0).float()
    shifted = right.roll(1, dims=1)  # four of eight voxels stay
    found = measuring.measure(right, torch.stack([right, shifted]), label, 0.5)
    assert (found["dice"], found["one_dice"]) == (1, 1)
    assert found["agreement"] == pytest.approx((1 + 0.5) / 2)
    assert found["spread"] == pytest.approx(8 / 8)
    assert found["expected_dice"] == pytest.approx(1)
    assert found["volume_ml"] == [4.0]
    assert found["members_ml"] == [[4.0, 4.0]]
    assert found["ece"] == pytest.approx(0, abs=1e-6)


def test_flips_are_undone():
    parser = measuring.read_bundle(BUNDLE, {})
    network = parser.get_parsed_content("network_def").eval()
    network.segmenter = torch.nn.Conv3d(1, 3, 1)  # the same whichever way it is turned
    image = torch.randn(1, 1, *parser["roi_size"])
    with torch.no_grad():
        mean, drawn = measuring.passes(parser, [network], measuring.all_flips(3))(image)
        alone, _ = measuring.passes(parser, [network])(image)
    assert len(drawn) == 8
    torch.testing.assert_close(mean, alone, atol=1e-2, rtol=0)  # bfloat16


def test_report(tmp_path, capsys):
    def row(dice, ece):
        case = dict.fromkeys(report.METRICS, 0.5)
        cases = {f"c{i}": case | {"dice": d, "ece": ece} for i, d in enumerate(dice)}
        return {"seconds_per_case": 0.25, "cases": cases}

    folder = tmp_path / "work" / "rows" / "fold"
    measuring.write_json(folder / "segmenter.json", row([0.8, 0.9], 0.04))
    measuring.write_json(folder / "better.json", row([0.82, 0.92], 0.01))
    report.write(tmp_path / "work", "fold", ["segmenter", "better", "missing"], tmp_path)
    (_, better) = json.loads((tmp_path / "results_fold.json").read_text())["rows"]
    assert better["dice"]["mean"] == pytest.approx(0.87)
    assert better["dice_difference"]["mean"] == pytest.approx(0.02)
    assert better["ece_difference"]["mean"] == pytest.approx(-0.03)
    assert better["cases"] == 2
    assert "| better | 2 | 0.8700 [+0.0200, +0.0200] |" in capsys.readouterr().out
    assert (tmp_path / "results_fold.png").stat().st_size > 5000

    # rows whose measurements are gone stay, measured ones replace them, names that left the study go
    (folder / "better.json").unlink()
    measuring.write_json(folder / "missing.json", row([0.7, 0.8], 0.05))
    report.write(tmp_path / "work", "fold", ["segmenter", "better", "missing"], tmp_path)
    rows = {line["name"]: line for line in json.loads((tmp_path / "results_fold.json").read_text())["rows"]}
    assert list(rows) == ["segmenter", "better", "missing"]
    assert rows["better"] == better
    assert "better *" not in capsys.readouterr().out  # behind one segmenter
    rows["better"]["segmenter"] = "another"
    assert "| better * | 2 |" in report.as_markdown(list(rows.values()))
    assert rows["missing"]["dice"]["mean"] == pytest.approx(0.75)
    report.write(tmp_path / "work", "fold", ["segmenter", "missing"], tmp_path)
    assert len(json.loads((tmp_path / "results_fold.json").read_text())["rows"]) == 2


@torch.no_grad()
def test_untied_blocks_with_equal_weights_are_the_ode_blocks():
    options = {"spatial_dims": 2, "image_channels": 1, "num_classes": 2, "channels": (8,), "stem_channels": 8}
    options |= {"solver": "midpoint", "solver_steps": 2}
    torch.manual_seed(0)
    tied = ODEUNet(**options)
    torch.nn.init.normal_(tied.bottom.acceleration.conv_out.weight)
    untied = UntiedODEUNet(**options)
    assert len(untied.bottom.acceleration.parts) == 3  # two steps of two stages, the last of which nothing reads
    state = tied.state_dict()
    untied.load_state_dict({name: state[re.sub(r"\.parts\.\d", "", name)] for name in untied.state_dict()})
    x_t, t, image = torch.randn(1, 2, 8, 8), torch.tensor([300]), torch.randn(1, 1, 8, 8)
    for _ in range(2):
        assert torch.equal(untied(x_t, t, image), tied(x_t, t, image))
    untied.bottom.acceleration.parts[2].conv_out.weight.zero_()
    assert not torch.equal(untied(x_t, t, image), tied(x_t, t, image))


@torch.no_grad()
def test_separable_convolutions_begin_as_whole_ones_and_can_be_written_as_such():
    torch.manual_seed(0)
    options = {"spatial_dims": 2, "image_channels": 1, "num_classes": 2, "channels": (8,), "stem_channels": 8}
    whole, separable = ODEUNet(**options), SeparableODEUNet(**options)
    own = separable.state_dict()
    whole.load_state_dict({name: value for name, value in own.items() if name in whole.state_dict()}, strict=False)
    x_t, t, image = torch.randn(1, 2, 8, 8), torch.tensor([300]), torch.randn(1, 1, 8, 8)
    assert torch.equal(separable(x_t, t, image), whole(x_t, t, image))  # both accelerations are 0
    each, mixed = separable.bottom.acceleration.conv_out
    torch.nn.init.normal_(mixed.weight)
    for name in ("conv_in", "conv_out"):
        each, mixed = getattr(separable.bottom.acceleration, name)
        target = getattr(whole.bottom.acceleration, name)
        target.weight.copy_(mixed.weight * each.weight.movedim(1, 0))
        target.bias.copy_(mixed.bias + mixed.weight[:, :, 0, 0] @ each.bias)
    found, expected = separable(x_t, t, image), whole(x_t, t, image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_sub_pixel_head_is_a_pointwise_convolution_and_a_pixel_shuffle():
    torch.manual_seed(0)
    net = SubPixelODEUNet(8, spatial_dims=3, image_channels=1, num_classes=2, channels=(8,), stem_channels=8)
    last, before = net.head[-1], []
    last.register_forward_hook(lambda _, args, output: before.append(args[0]))
    found = net(torch.randn(1, 2, 8, 8, 8), torch.tensor([300]), torch.randn(1, 1, 8, 8, 8))
    assert before[0].shape == (1, 8, 4, 4, 4)
    pointwise = torch.einsum("bixyz,io->boxyz", before[0], last.weight.reshape(8, 2 * 8))
    pointwise += last.bias.repeat_interleave(8).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(found, pixelshuffle(pointwise, 3, 2), rtol=1e-4, atol=1e-5)


def test_costs_are_those_of_the_shipped_bundle():
    counts = json.loads((study.ROOT / "tests" / "bundles" / "costs.json").read_text())[BUNDLE.name]
    found = design.cost("narrow")
    assert found["parameters"] == counts["denoiser_parameters"]
    assert round(found["flops"] / 1e6, 1) == counts["denoise_mflop"]
    assert found["flops"] < design.baseline()["flops"] / 10
    assert found["parameters"] < design.baseline()["parameters"] / 4
