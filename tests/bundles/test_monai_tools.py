"""Every bundle as MONAI's own tools see it: metadata, properties, checks and exports."""

import json
import sys
from pathlib import Path

import jsonschema
import onnx
import pytest
import torch
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
MOST_BYTES = 40 * 2**20


@pytest.fixture(scope="session")
def copies():
    return {}


@pytest.fixture
def copied(copy_bundle, copies, bundle_name):
    """A copy of the bundle, made once."""
    if bundle_name not in copies:
        copies[bundle_name] = copy_bundle(bundle_name)
    return copies[bundle_name]


@pytest.fixture
def metadata(copied):
    return json.loads((copied / "configs" / "metadata.json").read_text(encoding="utf-8"))


def exports(copied):
    """Options that all exports need."""
    return {
        "ckpt_file": copied / "models" / "model.pt",
        "key_in_ckpt": "model",
        "meta_file": copied / "configs" / "metadata.json",
        "config_file": copied / "configs" / "inference.json",
    }


def test_papers_are_there(bundle_name):
    folder = ROOT / "bundles" / bundle_name
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for name in ("docs/README.md", "docs/data_license.txt"):
        assert (folder / name).read_text(encoding="utf-8").strip(), name
    assert bundle_name.endswith("_segmentation")  # MONAI Label reads the type from the name


def test_weights_are_plain_and_small(bundle_name, copied, read_inference):
    committed = ROOT / "bundles" / bundle_name / "models" / "model.pt"
    file = committed if committed.is_file() else copied / "models" / "model.pt"
    assert file.stat().st_size < MOST_BYTES
    content = torch.load(file, weights_only=True)
    assert list(content) == ["model"]
    assert all(torch.isfinite(tensor).all() for tensor in content["model"].values())
    network = read_inference(copied).get_parsed_content("network_def")
    network.load_state_dict(content["model"])
    # MONAI Label takes the shortest name of all weights in the folder
    assert [path.name for path in committed.parent.glob("*.pt")] in ([], ["model.pt"])


def test_metadata_follow_monai_s_schema(metadata, bundle_name):
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert metadata["name"] == bundle_name
    assert metadata["version"] in metadata["changelog"]
    assert metadata["schema"].endswith(SCHEMA.name)


def test_metadata_fit_the_pipeline(metadata, copied, read_inference):
    parser = read_inference(copied)
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert image["spatial_shape"] == pred["spatial_shape"] == parser.get_parsed_content("roi_size")
    assert image["num_channels"] == parser.get_parsed_content("channels")
    assert pred["num_channels"] == parser.get_parsed_content("num_classes") == len(pred["channel_def"])
    assert pred["channel_def"] == parser.get_parsed_content("labels")
    assert pred["channel_def"]["0"] == "background"


@pytest.mark.slow
def test_verify_metadata(command, copied, tmp_path):
    # MONAI downloads the schema, unless the file is there
    schema = tmp_path / "schema.json"
    schema.write_text(SCHEMA.read_text(encoding="utf-8"), encoding="utf-8")
    done = command("verify_metadata", meta_file=copied / "configs" / "metadata.json", filepath=schema)
    assert done.code == 0, done
    assert "metadata is verified with no error" in done.out + done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "kind"),
    [("train", "train"), ("train_segmenter", "train"), ("inference", "infer"), ("evaluate", "infer")],
)
def test_properties(copied, metadata, data_for, tmp_path, monkeypatch, file, kind):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back what initialize changes
    workflow = ConfigWorkflow(
        config_file=str(copied / "configs" / f"{file}.json"),
        meta_file=str(copied / "configs" / "metadata.json"),
        workflow_type=kind,
        bundle_root=str(copied),
        dataset_dir=str(data_for(metadata["network_data_format"]["inputs"]["image"]["num_channels"])),
        output_dir=str(tmp_path),
        device="cpu",
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_verify_net_in_out(command, copied):
    options = {key: value for key, value in exports(copied).items() if key in ("meta_file", "config_file")}
    done = command("verify_net_in_out", "network_def", **options)
    assert done.code == 0, done
    assert "data shape of network is verified with no error" in done.out + done.err


@pytest.mark.slow
def test_exported_torchscript_gives_the_eager_result(command, copied, metadata, read_inference, tmp_path):
    file = tmp_path / "model.ts"
    done = command("ckpt_export", "network_def", filepath=file, **exports(copied))
    assert done.code == 0, done
    extra = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(file, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["version"] == metadata["version"]
    assert "network_def" in json.loads(extra["inference.json"])

    network = read_inference(copied).get_parsed_content("network_def")
    network.load_state_dict(torch.load(copied / "models" / "model.pt", weights_only=True)["model"])
    generator = torch.Generator().manual_seed(1)
    formats = metadata["network_data_format"]
    channels, classes = formats["inputs"]["image"]["num_channels"], formats["outputs"]["pred"]["num_channels"]
    # other sizes than the one that MONAI checked with
    for size in ((24, 24, 24), (32, 24, 16)):
        image, noise = (torch.randn(1, n, *size, generator=generator) for n in (channels, classes))
        with torch.no_grad():
            eager, scripted = network.eval()(image, noise), exported(image, noise)
        assert eager.shape == (1, classes, *size)
        assert torch.allclose(scripted, eager, atol=1e-5)
        assert torch.allclose(eager.sum(1), torch.ones(1), atol=1e-5)


@pytest.mark.slow
def test_onnx_export(command, bundle, tmp_path):
    file = tmp_path / "model.onnx"
    done = command("onnx_export", "network_def", filepath=file, **exports(bundle))
    assert done.code == 0, done
    model = onnx.load(file)
    onnx.checker.check_model(model)
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 1, 48, 56, 40], [1, 3, 48, 56, 40]]
