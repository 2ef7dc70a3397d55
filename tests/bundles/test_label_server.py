"""What MONAI Label does with a bundle: parts of inference.json, kept and used in threads, without its initialize."""

import json
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImaged

pytestmark = pytest.mark.slow


class Task:
    """The steps of MONAI Label's BundleInferTask: it parses once and serves requests with the same objects."""

    def __init__(self, parser, bundle):
        self.network = parser.get_parsed_content("network_def", instantiate=True)
        checkpoint = torch.load(bundle / "models" / "model.pt", map_location="cpu")
        self.network.load_state_dict(checkpoint.get("model", checkpoint), strict=False)
        self.network.eval()
        self.device = parser.get_parsed_content("device")
        self.before = parser.get_parsed_content("preprocessing", instantiate=True).transforms
        self.inferer = parser.get_parsed_content("inferer", instantiate=True)
        after = parser.get_parsed_content("postprocessing", instantiate=True).transforms
        self.after = [transform for transform in after if not isinstance(transform, SaveImaged)]

    def __call__(self, path):
        data = {"image": str(path), "image_path": str(path)}
        for transform in self.before:
            data = transform(data)
        inputs = data["image"][None].to(torch.device(self.device))
        with torch.no_grad():
            outputs = self.inferer(inputs, self.network)
        data["pred"] = outputs[0]
        for transform in self.after:
            data = transform(data)
        return data


@pytest.fixture(scope="module")
def scans(phantom):
    return sorted((phantom / "imagesTs").iterdir())


@pytest.fixture(scope="module")
def task(bundle, read_inference):
    return Task(read_inference(bundle, members=2, num_steps=2), bundle)


@pytest.fixture(scope="module")
def answers(task, scans):
    return [task(scan) for scan in scans]


def test_bundle_reads_its_scan_itself(task):
    assert isinstance(task.before[0], LoadImaged)
    assert not any(isinstance(transform, SaveImaged) for transform in task.after)


def test_prediction_is_a_label_map_on_the_scan_s_grid(answers, scans):
    for data, path in zip(answers, scans, strict=True):
        scan, pred = nib.load(path), data["pred"]
        assert isinstance(pred, MetaTensor)
        assert tuple(pred.shape) == (1, *scan.shape)
        assert np.allclose(pred.affine, scan.affine, atol=1e-5)
        assert set(np.unique(pred)) <= {0, 1, 2}
        assert torch.equal(pred.as_tensor(), data["seg"].as_tensor())
        assert data["image_path"] == str(path)


def test_result_is_json(answers):
    for data in answers:
        result = json.loads(json.dumps(data["result"]))
        assert set(result["volume_ml"]) == {"body", "core"}
        assert set(result["volume_ml"]["body"]) >= {"segmentation", "members_mean", "members_sd"}


def test_requests_in_threads_are_answered_as_one_by_one(task, scans, answers):
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(task, scans))
    for data, alone in zip(together, answers, strict=True):
        for key in ("pred", "entropy", "mutual_information", "members"):
            assert torch.equal(data[key].as_tensor(), alone[key].as_tensor()), key
        assert data["result"] == alone["result"]


def test_answer_is_that_of_the_command(command, bundle, scans, answers, tmp_path):
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": scans[0], "output_dir": tmp_path}
    done = command("run", "inference", **options, members=2, num_steps=2, device="cpu")
    assert done.code == 0, done
    name = scans[0].name.removesuffix(".nii.gz")
    seg = np.asanyarray(nib.load(tmp_path / name / f"{name}_seg.nii.gz").dataobj)
    differing = (seg != np.asarray(answers[0]["pred"][0])).sum()
    # the command runs on one thread and this process on any number, which rounds bfloat16 sums otherwise
    assert differing <= 0.005 * (seg > 0).sum()


def test_torchscript_serves_too(task, scans, answers):
    other = object.__new__(Task)
    other.__dict__ = {**task.__dict__, "network": torch.jit.script(task.network)}
    data = other(scans[0])
    assert torch.allclose(data["preseg"].as_tensor(), answers[0]["preseg"].as_tensor(), atol=0.02)  # bfloat16
    differing = (data["pred"] != answers[0]["pred"]).sum()
    assert differing <= 0.005 * (answers[0]["pred"] > 0).sum()
