"""Small data sets in the three forms, whose content is known."""

import json

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_pdddpm.cli.preprocessing_rules import Choice

SHAPE = (20, 24, 16)


def write_scan(path, array, spacing=(1.0, 1.0, 1.0), affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0]) if affine is None else affine), path)
    return path


def a_label(values=(0, 1), shape=SHAPE, number=0):
    """A box for each value, one beside the other; it moves a little with the number of the case."""
    label = np.zeros(shape, dtype=np.uint8)
    for index, value in enumerate(values[1:]):
        label[2 + 6 * index : 7 + 6 * index, 4 + number % 3 : 14, 4:12] = value
    return label


def an_image(label, number=0, channels=1):
    """Noise, brighter inside the label."""
    noise = np.random.default_rng(number).normal(100, 5, (*label.shape, channels))
    image = (noise + 50 * label[..., None]).astype(np.float32)
    return image[..., 0] if channels == 1 else image


def config(folder, name="inference"):
    return json.loads((folder / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def change(root, **more):
    """Change entries of a data set's list; return the old ones."""
    content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    (root / "dataset.json").write_text(json.dumps(content | more), encoding="utf-8")
    return content


def run(folder, *names, **more):
    """Run a bundle with the configurations of these names, on a CPU."""
    files = [str(folder / "configs" / f"{name}.json") for name in names]
    settings = {"device": "cpu", "precision": "float32", "bundle_root": str(folder), **more}
    workflow = ConfigWorkflow(files, workflow_type="train" if "train" in names[0] else "infer", **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def shorten(folder):
    """Let the trainings of a bundle see four windows in an epoch."""
    for name in ("train_segmenter", "train"):
        file = folder / "configs" / f"{name}.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["train"]["sampler"]["num_samples"] = 4
        file.write_text(json.dumps(content | {"precision": "float32"}), encoding="utf-8")


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch):
    """Let create-bundle measure nothing; tests/cli/test_measure.py does."""
    time = Choice("time", 1.0, "an hour", "measured")
    for name in ("expected_time", "inference_memory"):
        monkeypatch.setattr(f"monai_pdddpm.cli.create.{name}", lambda *args: time)


@pytest.fixture
def decathlon(tmp_path):
    """Make a data set in the Decathlon's form; return its folder."""

    def make(folder="decathlon", cases=4, values=(0, 1), channels=("MRI",), names=None, spacing=(1, 1, 1), **more):
        root = tmp_path / folder
        training = []
        for number in range(cases):
            label = a_label(values, number=number)
            name = f"case {number} é.nii.gz" if number == 0 else f"case_{number}.nii.gz"
            write_scan(root / "imagesTr" / name, an_image(label, number, len(channels)), spacing)
            write_scan(root / "labelsTr" / name, label, spacing)
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        labels = {str(value): name for value, name in zip(values, names or ["background", "a", "b", "c"], strict=False)}
        content = {"name": "Boxes", "licence": "CC0", "modality": {str(i): name for i, name in enumerate(channels)}}
        content |= {"labels": labels, "training": training} | more
        (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return root

    return make


@pytest.fixture
def nnunet(tmp_path):
    """Make a data set in nnU-Net's form with two channels; return its folder."""

    def make(folder="Dataset001_Boxes", cases=4, labels=None):
        root = tmp_path / folder
        for number in range(cases):
            label = a_label(number=number)
            for channel in range(2):
                write_scan(
                    root / "imagesTr" / f"box_{number:03d}_{channel:04d}.nii.gz", an_image(label, number + channel)
                )
            write_scan(root / "labelsTr" / f"box_{number:03d}.nii.gz", label)
        write_scan(root / "imagesTs" / "box_100_0000.nii.gz", an_image(a_label(), 100))
        write_scan(root / "imagesTs" / "box_100_0001.nii.gz", an_image(a_label(), 101))
        content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": labels or {"background": 0, "box": 1}}
        content |= {"numTraining": cases, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return root

    return make


@pytest.fixture
def series(tmp_path):
    """Make a data set of three time series of two frames; return its folder."""
    root = tmp_path / "series"
    entries = []
    for number in range(3):
        labels = [a_label((0, 1), number=frame) for frame in range(2)]
        for folder, arrays in (("imagesTr", map(an_image, labels)), ("labelsTr", labels)):
            write_scan(root / folder / f"heart_{number}.nii.gz", np.stack([*arrays], axis=-1))
        entries.append({key: f"{key}sTr/heart_{number}.nii.gz" for key in ("image", "label")})
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "box"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root
