"""Exported files equal the inferer, contain their settings, and appear complete or not at all."""

import importlib.util
import json

import onnx
import onnxruntime
import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_pdddpm.bundle import export, export_ensemble
from monai_pdddpm.inferers import EnsembleOutput, PDDDPMInferer
from monai_pdddpm.networks import PDDDPM, ODEUNet
from monai_pdddpm.networks.fixed_ensemble import OUTPUTS
from monai_pdddpm.schedulers import AncestralRule, DDIMRule
from monai_pdddpm.transforms.outputs import uncertainty_maps
from monai_pdddpm.utils.errors import UserError

K, SIZE = 3, [16, 24]
STEPS = [899, 500, 100]


@pytest.fixture(scope="module")
def network():
    """Networks of the kind that is shipped, small, with weights that are not at rest."""
    torch.manual_seed(0)
    segmenter = UNet(2, 1, K, channels=(4, 8), strides=(2,), norm=("group", {"num_groups": 2}))
    denoiser = ODEUNet(2, 1, K, presegmentation_channels=K, channels=(8, 8), stem_channels=8, embedding_channels=16)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():  # let the state speak
        denoiser.inlet.weight.mul_(10)
        denoiser.head[-1].weight.mul_(20)
    return PDDDPM(segmenter, denoiser, time_steps=STEPS).eval()


@pytest.fixture
def root(tmp_path):
    """A bundle's configurations."""
    maps = {name: {"type": "image", "num_channels": 1, "spatial_shape": ["X", "Y"]} for name in OUTPUTS}
    formats = {"inputs": {"image": {"num_channels": 1, "spatial_shape": [8, 8]}}, "outputs": {}}
    metadata = {"name": "tiny_segmentation", "network_data_format": formats | {"post_processed_outputs": maps}}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"preprocessing": "as described here"}))
    return tmp_path


def inferer(**options):
    defaults = {"members": 4, "seed": 7, "windows": "all", "precision": "float32", "progress": False}
    return PDDDPMInferer(**({"roi_size": SIZE, "time_steps": STEPS} | defaults | options))


def window(seed=1):
    return torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def inference(network, settings, image, temperature):
    """The maps that inference writes."""
    maps = uncertainty_maps(EnsembleOutput(K).split(settings(image, network)[0][: 4 * K]), temperature)
    return [maps[name][None] for name in OUTPUTS]


def assert_alike(found, expected, atol=2e-5):
    assert len(found) == len(expected) == 4
    for name, a, b in zip(OUTPUTS, found, expected, strict=True):
        assert torch.allclose(torch.as_tensor(a), b, atol=atol), name


@pytest.mark.parametrize(
    ("options", "temperature"),
    [
        ({}, 1.0),
        ({"presegmentation_weight": 0.3}, 1.4),
        ({"members": 1, "seed": 3, "solver": "rk4", "solver_steps": 2}, 0.8),
        ({"time_steps": []}, 1.0),
        ({"time_steps": [999, 600], "return_members": True}, 1.0),
        ({"large_scale_noise": 0.5, "noise_length": 3.0}, 1.0),
    ],
)
def test_torchscript_answers_as_inference(network, root, options, temperature):
    settings = inferer(**options)
    (file,) = export_ensemble(network, settings, root, root / "out", temperature, ["torchscript"])
    exported = torch.jit.load(file)
    image = window()
    expected = inference(network, settings, image, temperature)
    assert_alike(exported(image), expected)
    assert expected[0].std() > 0.01  # not a constant
    assert torch.equal(exported(image)[0], exported(image)[0])  # deterministic


def test_residual_pair_is_exported_with_its_own_chain(network, root):
    residual = PDDDPM(network.segmenter, network.denoiser, STEPS, training_process="residual").eval()
    settings, image = inferer(time_steps=[663, 300]), window()
    (file,) = export_ensemble(residual, settings, root, root / "out", 1.0, ["torchscript"])
    expected = inference(residual, settings, image, 1.0)
    assert_alike(torch.jit.load(file)(image), expected)
    assert (expected[3] - inference(network, settings, image, 1.0)[3]).abs().max() > 1e-3  # another chain


def test_what_is_fixed_lies_inside(network, root):
    (file,) = export_ensemble(network, inferer(presegmentation_weight=0.25), root, root / "out", 1.5, ["torchscript"])
    inside = {"metadata.json": "", "inference.json": "", "ensemble.json": ""}
    torch.jit.load(file, _extra_files=inside)
    metadata, configuration, fixed = (json.loads(text) for text in inside.values())
    assert metadata["name"] == "tiny_segmentation"
    formats = metadata["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == SIZE
    assert list(formats["outputs"]) == list(OUTPUTS)
    assert all(entry["spatial_shape"] == SIZE for entry in formats["outputs"].values())
    assert configuration == {"preprocessing": "as described here"}
    settings = {
        "members": 4,
        "seed": 7,
        "time_steps": STEPS,
        "presegmentation_weight": 0.25,
        "temperature": 1.5,
        "window": SIZE,
    }
    assert {key: fixed[key] for key in settings} == settings
    assert fixed["precision"] == "float32"
    assert "overlap" not in fixed


@pytest.mark.slow
def test_onnx_answers_as_inference(network, root, capsys):
    settings = inferer(presegmentation_weight=0.3)
    (file,) = export_ensemble(network, settings, root, root / "out", 1.4, ["onnx"])
    assert "ensemble.onnx: differs from the inferer's output by at most" in capsys.readouterr().out
    onnx.checker.check_model(onnx.load(file))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]
    assert [value.name for value in session.get_outputs()] == list(OUTPUTS)
    assert_alike(session.run(None, {"image": window().numpy()}), inference(network, settings, window(), 1.4))
    inside = session.get_modelmeta().custom_metadata_map
    assert json.loads(inside["metadata.json"])["name"] == "tiny_segmentation"
    assert json.loads(inside["ensemble.json"])["members"] == 4
    assert json.loads(inside["inference.json"]) == {"preprocessing": "as described here"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": DDIMRule(1.0)}, "rule: found DDIMRule"),
        ({"rule": AncestralRule()}, "rule: found AncestralRule"),
        ({"roi_size": [15, 24]}, "roi_size: found"),
    ],
)
def test_what_cannot_be_exported_is_named(network, root, options, words):
    with pytest.raises(UserError, match=words):
        export_ensemble(network, inferer(**options), root, root / "out")
    assert not (root / "out").exists()


@pytest.mark.parametrize("formats", [[], "onnx", ["tensorrt"], ["torchscript", "tensorrt"]])
def test_formats_are_checked(network, root, formats):
    with pytest.raises(UserError, match="formats: found"):
        export_ensemble(network, inferer(), root, root / "out", formats=formats)


def test_missing_package_is_named(network, root, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match="pip install onnxscript"):
        export_ensemble(network, inferer(), root, root / "out")


def test_a_bundle_without_metadata_is_named(network, root):
    (root / "configs" / "metadata.json").unlink()
    with pytest.raises(UserError, match=r"metadata\.json: cannot be read"):
        export_ensemble(network, inferer(), root, root / "out")


def test_files_that_are_there_stay(network, root):
    file = root / "out" / "ensemble.ts"
    file.parent.mkdir()
    file.write_text("older")
    with pytest.raises(UserError, match=r"found the file .*ensemble\.ts; .*--overwrite True"):
        export_ensemble(network, inferer(), root, root / "out", formats=["torchscript"])
    assert file.read_text() == "older"
    export_ensemble(network, inferer(), root, root / "out", formats=["torchscript"], overwrite=True)
    assert file.stat().st_size > 1000
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_says_something_else_never_appears(network, root, monkeypatch):
    monkeypatch.setattr(export, "_run_torchscript", lambda file, image: [torch.full((1,), 2.0)] * 4)
    with pytest.raises(RuntimeError, match="differs from the inferer's"):
        export_ensemble(network, inferer(), root, root / "out", formats=["torchscript"])
    assert list((root / "out").iterdir()) == []


class Unscriptable(ODEUNet):
    @torch.jit.export
    def denoise(self, *args, **kwargs):  # TorchScript has no variable arguments
        return super().denoise(*args, **kwargs)


def test_a_network_that_torchscript_does_not_take_is_named(root):
    torch.manual_seed(0)
    options = {"presegmentation_channels": K, "channels": (8, 8), "stem_channels": 8}
    pair = PDDDPM(UNet(2, 1, K, channels=(4, 8), strides=(2,)), Unscriptable(2, 1, K, **options)).eval()
    with pytest.raises(UserError, match="found torchscript, which cannot express this network"):
        export_ensemble(pair, inferer(), root, root / "out", formats=["torchscript"])
    assert list((root / "out").iterdir()) == []
