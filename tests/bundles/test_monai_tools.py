"""Every bundle as MONAI's own tools see it: metadata, properties, checks and exports."""

import configparser
import json
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from monai.bundle import create_workflow

import monai_pdddpm
from monai_pdddpm.inferers import EnsembleOutput
from monai_pdddpm.transforms.outputs import uncertainty_maps
from monai_pdddpm.transforms.save_maps import MAP_FILES

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
MOST_BYTES = 25 * 10**6  # the limit of the model zoo for files in git
# the model zoo's order, and the limitations
SECTIONS = [
    "Model Overview",
    "Data",
    "Preprocessing",
    "Training configuration",
    "Input",
    "Output",
    "Performance",
    "MONAI Bundle Commands",
    "Limitations",
    "References",
    "License",
]


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


def test_papers_are_there(bundle_name):
    folder = ROOT / "bundles" / bundle_name
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for name in ("docs/README.md", "docs/data_license.txt"):
        assert (folder / name).read_text(encoding="utf-8").strip(), name
    assert bundle_name.endswith("_segmentation")  # MONAI Label reads the type from the name
    headings = re.findall(r"^#+ (.*)$", (folder / "docs" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == SECTIONS


def test_weights_are_plain_and_small(bundle_name, copied, read_inference):
    committed = ROOT / "bundles" / bundle_name / "models" / "model.pt"
    file = committed if committed.is_file() else copied / "models" / "model.pt"
    assert file.stat().st_size < MOST_BYTES
    content = torch.load(file, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in content.values())
    network = read_inference(copied).get_parsed_content("network_def")
    network.load_state_dict(content)
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
    assert image["num_channels"] == parser["scan"]["channels"]
    assert pred["num_channels"] == len(parser["labels"]) == len(pred["channel_def"])
    assert pred["channel_def"] == parser.get_parsed_content("labels")
    assert pred["channel_def"]["0"] == "background"


def test_metadata_name_every_map_that_is_written(metadata, copied, read_inference):
    parser = read_inference(copied)
    maps = metadata["network_data_format"]["post_processed_outputs"]
    (saved,) = (step for step in parser["postprocessing"]["transforms"] if step["_target_"].endswith(".SaveImageMapsd"))
    written = [MAP_FILES[key].postfix for key in saved.get("keys", MAP_FILES)]
    assert sorted(maps) == sorted(name.replace("-", "_") for name in written)
    labels = parser["labels"]
    classes = len(labels)
    channels = {name: entry["num_channels"] for name, entry in maps.items()}
    assert channels == dict.fromkeys(maps, 1) | {
        "prob": classes,
        "variance": classes - 1,
        "members": parser["members"],
    }
    assert maps["prob"]["channel_def"] == labels
    axes = ["X", "Y", "Z", "T"] if parser["scan"]["fourth_dimension"] == "time" else ["X", "Y", "Z"]
    assert all(entry["spatial_shape"] == axes for entry in maps.values())
    highest = {"seg": classes - 1, "members": classes - 1, "preseg": classes - 1, "prob": 1, "variance": 0.25}
    highest |= dict.fromkeys(("entropy", "mutual_information"), pytest.approx(np.log(classes), abs=1e-4))
    assert {name: entry["value_range"] for name, entry in maps.items()} == {n: [0, h] for n, h in highest.items()}
    assert all(
        entry["dtype"] == ("uint8" if n in ("seg", "members", "preseg") else "float32") for n, entry in maps.items()
    )


def test_metadata_repeat_the_measured_numbers(metadata, bundle_name):
    readme = (ROOT / "bundles" / bundle_name / "docs" / "README.md").read_text(encoding="utf-8")
    performance = readme.partition("# Performance")[2].partition("# MONAI Bundle Commands")[0]
    stated = metadata["eval_metrics"]
    assert {"cases", "data", "segmenter", "ensemble"} == set(stated)
    assert list(stated["segmenter"]) == list(stated["ensemble"])
    for metric in stated["ensemble"]:
        pair = [f"{stated[who][metric]:g}" for who in ("segmenter", "ensemble")]
        lines = [re.findall(r"[\d.]*\d", line) for line in performance.splitlines() if line.startswith("|")]
        # both numbers in one row of the table, the segmenter's first
        assert any(_in_order(pair, [f"{float(n):g}" for n in line]) for line in lines), metric


def _in_order(few, many):
    rest = iter(many)
    return all(item in rest for item in few)


def test_metadata_name_the_packages(metadata):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {re.split("[<>=]", line)[0] for line in setup["options"]["install_requires"].split()}
    named = metadata["required_packages_version"]
    assert set(named) == needed - {"torch", "monai", "numpy"} | {"monai_pdddpm"}
    assert named["monai_pdddpm"] == monai_pdddpm.__version__
    assert "not to be used for diagnosis" in metadata["intended_use"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["train"], "train"),
        (["train_segmenter"], "train"),
        (["inference"], "infer"),
        (["inference", "evaluate"], "infer"),
        (["inference", "calibrate"], "infer"),
    ],
)
def test_properties(copied, metadata, data_for, tmp_path, monkeypatch, files, kind):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back what initialize changes
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    workflow = create_workflow(
        config_file=[str(copied / "configs" / f"{file}.json") for file in files],
        meta_file=str(copied / "configs" / "metadata.json"),
        workflow_type=kind,
        bundle_root=str(copied),
        dataset_dir=str(data_for(channels)),
        output_dir=str(tmp_path),
        device="cpu",
    )
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_exported_torchscript_gives_the_eager_result(command, copied, metadata, read_inference, tmp_path):
    file = tmp_path / "model.ts"
    done = command("ckpt_export", cwd=copied, args_file="configs/export_args.json", filepath=file)
    assert done.code == 0, done
    extra = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(file, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["version"] == metadata["version"]
    assert "network_def" in json.loads(extra["inference.json"])

    network = load(read_inference(copied), copied)
    generator = torch.Generator().manual_seed(1)
    formats = metadata["network_data_format"]
    channels, classes = formats["inputs"]["image"]["num_channels"], formats["outputs"]["pred"]["num_channels"]
    # other sizes than the one that MONAI checked with
    for size in ((24, 24, 24), (32, 24, 16)):
        image, noise = (torch.randn(1, n, *size, generator=generator) for n in (channels, classes))
        with torch.no_grad():
            eager, scripted = network(image, noise), exported(image, noise)
        assert eager.shape == (1, classes, *size)
        assert torch.allclose(scripted, eager, atol=1e-5)
        assert torch.allclose(eager.sum(1), torch.ones(1), atol=1e-5)


@pytest.mark.slow
def test_onnx_export(command, copied, metadata, tmp_path):
    file, size = tmp_path / "model.onnx", [24, 24, 24]
    formats = metadata["network_data_format"]
    channels, classes = formats["inputs"]["image"]["num_channels"], formats["outputs"]["pred"]["num_channels"]
    small = {"num_steps": 2, "input_shape": [1, channels, *size]}
    done = command("onnx_export", cwd=copied, args_file="configs/export_args.json", filepath=file, **small)
    assert done.code == 0, done
    onnx.checker.check_model(onnx.load(file))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).standard_normal((1, channels, *size), dtype=np.float32)
    (answer,) = session.run(None, {session.get_inputs()[0].name: image})
    assert answer.shape == (1, classes, *size)
    assert np.allclose(answer.sum(1), 1, atol=1e-5)
    assert answer.min() >= 0


@pytest.mark.slow
def test_exported_ensemble_gives_what_inference_gives(command, copied, metadata, read_inference, tmp_path):
    size, out = [24, 32, 16], tmp_path / "out"
    settings = {"members": 3, "num_steps": 2, "seed": 5, "roi_size": size}
    done = command(
        "run",
        "export",
        config_file=[copied / f"configs/{name}.json" for name in ("inference", "export")],
        output_dir=out,
        bundle_root=copied,
        **settings,
    )
    assert done.code == 0, done
    assert sorted(path.name for path in out.iterdir()) == ["ensemble.onnx", "ensemble.ts"]

    parser = read_inference(
        copied, **settings, windows="all", precision="float32", **{"inferer::return_members": False}
    )
    channels, classes = parser["scan"]["channels"], len(parser["labels"])
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(2))
    output = parser.get_parsed_content("inferer")(image, load(parser, copied))[0]
    temperature = parser.get_parsed_content("postprocessing::transforms::0").temperature
    maps = uncertainty_maps(EnsembleOutput(classes).split(output), temperature)  # no preprocessing to invert
    names = ["prob", "entropy", "mutual_information", "variance"]
    expected = [maps[name] for name in names]

    extra = {"metadata.json": "", "ensemble.json": ""}
    scripted = torch.jit.load(out / "ensemble.ts", _extra_files=extra)(image)
    session = onnxruntime.InferenceSession(out / "ensemble.onnx", providers=["CPUExecutionProvider"])
    in_runtime = session.run(names, {"image": image.numpy()})
    for name, truth, a, b in zip(names, expected, scripted, in_runtime, strict=True):
        assert torch.allclose(a[0], truth, atol=1e-4), name
        assert torch.allclose(torch.from_numpy(b)[0], truth, atol=1e-4), name
    assert in_runtime[0].shape == (1, classes, *size)

    inside = session.get_modelmeta().custom_metadata_map
    assert json.loads(inside["ensemble.json"]) == json.loads(extra["ensemble.json"])
    for text in (inside["metadata.json"], extra["metadata.json"]):
        stored = json.loads(text)
        jsonschema.validate(stored, json.loads(SCHEMA.read_text(encoding="utf-8")))
        assert stored["version"] == metadata["version"]
        outputs = stored["network_data_format"]["outputs"]
        found = {name: (list(a.shape[1:]), str(a.dtype)) for name, a in zip(names, in_runtime, strict=True)}
        assert found == {n: ([o["num_channels"], *o["spatial_shape"]], o["dtype"]) for n, o in outputs.items()}


def load(parser, bundle):
    """The bundle's network with its weights."""
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()
