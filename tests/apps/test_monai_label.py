"""Requests of the client in MONAI Label's 3D Slicer plugin to a MONAI Label server with the bundles.

The server has its own virtual environment (numpy 1.26, pydicom 2), which is made once and kept in the temporary folder.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from attacks_on_server import Server, on_server
from endurance_requests import Question, ask, compare
from label_server import (
    ROOT,
    START,
    copy_app,
    copy_bundle,
    install_package,
    make_environment,
    start_server,
    wait_until_ready,
)
from pdddpm_label.levels import entropy_levels, level_names
from pdddpm_label.scoring import member_disagreement

from monai_pdddpm.data import write_phantom

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="MONAI Label 0.8.5 needs Python below 3.12"),
]

DATA = ROOT.parent / "shared" / "data"
PHANTOM, HIPPOCAMPUS, LESION = (f"{task}_segmentation" for task in ("phantom", "hippocampus_mri", "ms_lesion_mri"))
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8"}  # the plugin adds these to each request
FEW = {"members": 2, "num_steps": 2}
ANSWER, JOB = 240, 300  # time limits in seconds

# runs the client in the environment of the server: one line of JSON per request and answer
CLIENT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("client", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
client = module.MONAILabelClient(sys.argv[2], tmpdir=sys.argv[3])
for line in sys.stdin:
    name, words, options = json.loads(line)
    try:
        answer = {"answer": getattr(client, name)(*words, **options)}
    except Exception as error:
        answer = {"error": str(getattr(error, "msg", error))}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def environment():
    """Python of a virtual environment with MONAI Label and without monai_pdddpm."""
    return make_environment()


@pytest.fixture(scope="module")
def installed(environment, tmp_path_factory):
    """The folder into which pip installed monai_pdddpm."""
    return install_package(environment, tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Copy of the app."""
    return copy_app(tmp_path_factory.mktemp("app") / "pdddpm")


@pytest.fixture(scope="module")
def start(environment, app, tmp_path_factory):
    """Start a server: ``start(site, *words)`` returns the process, its port and its log."""
    started = []

    def run(site, *words):
        log = tmp_path_factory.mktemp("server") / "log"
        process, port = start_server(environment, site, app, log, *words)
        started.append(process)
        return process, port, log

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # and its training and scoring processes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Slicer:
    """Send requests as the plugin does."""

    def __init__(self, environment, port, folder, log):
        plugin = (
            environment.parents[1] / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
        )
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        words = [environment, "-c", CLIENT, plugin, self.url, folder]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, name, *words, **options):
        self.process.stdin.write(json.dumps([name, words, options]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __call__(self, name, *words, **options):
        answer = self.ask(name, *words, **options)
        assert "answer" in answer, f"{name}: {answer}\n{self.log.read_text()[-4000:]}"
        return answer["answer"]

    def post(self, path):
        request = urllib.request.Request(self.url + path, data=b"{}", headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER) as answer:
            return json.load(answer)

    def job(self, kind):
        """Wait for a training or scoring; return its status."""
        begin = time.monotonic()
        while time.monotonic() < begin + JOB:
            with urllib.request.urlopen(f"{self.url}/{kind}/", timeout=ANSWER) as answer:
                task = json.load(answer)
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(1)
        raise TimeoutError(f"{kind}: {task}\n{self.log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def connect(environment, tmp_path_factory):
    """Connect to a server when it is ready."""
    clients = []

    def run(process, port, log):
        wait_until_ready(process, port, log)
        clients.append(Slicer(environment, port, tmp_path_factory.mktemp("slicer"), log))
        return clients[-1]

    yield run
    for client in clients:
        client.process.kill()
        client.process.wait()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    few = {"train": 4, "validation": 0, "test": 1, "annotations": 1}
    target = tmp_path_factory.mktemp("phantom") / "data"
    return write_phantom(target, **few, size=(24, 24, 24), spacing=(1.0, 1.0, 1.0), seed=5)


@pytest.fixture(scope="module")
def truths(phantom, tmp_path_factory):
    """Scan and label of each case, by bundle; the lesion scan is cropped because a whole head takes long."""
    folder = tmp_path_factory.mktemp("cut")
    found = {PHANTOM: [(path, phantom / "labelsTr" / path.name) for path in sorted((phantom / "imagesTr").iterdir())]}
    if DATA.is_dir():
        pair = [DATA / "hippocampus" / f"{kind}Tr" / "hippocampus_001.nii.gz" for kind in ("images", "labels")]
        found[HIPPOCAMPUS] = [tuple(pair)]
        pair = []
        for kind in ("labels", "images"):
            image = nib.load(DATA / "ms_lesions" / f"{kind}Tr" / "patient19.nii.gz")
            if kind == "labels":
                center = np.median(np.argwhere(np.asanyarray(image.dataobj)), axis=0).astype(int)
                box = tuple(slice(max(0, c - 24), max(0, c - 24) + 48) for c in center)
            pair.insert(0, folder / f"lesions_{kind}.nii.gz")
            nib.save(image.slicer[box], pair[0])
        found[LESION] = [tuple(pair)]
    return found


@pytest.fixture(scope="module")
def studies(truths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for pairs in truths.values():
        for scan, _ in pairs:
            shutil.copyfile(scan, folder / scan.name)
    return folder


@pytest.fixture(scope="module")
def bundles(truths, tmp_path_factory):
    """Copies of the bundles; the windows of the phantom's are as small as its scans."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in truths:
        copy_bundle(name, folder, [24, 24, 24] if name == PHANTOM else None)
    return folder


@pytest.fixture(scope="module")
def slicer(start, connect, installed, app, studies, bundles, truths):
    """Client of the app with all bundles, with few members and steps."""
    words = ["--app", app, "--studies", studies, "--conf", "bundles", ",".join(str(bundles / name) for name in truths)]
    return connect(*start(installed, *words, *("--conf", "members", "2", "--conf", "num_steps", "2")))


def image_id(path):
    return path.name.removesuffix(".nii.gz")


def read_nrrd(path):
    """Return voxels and RAS affine of a file that the client saved."""
    image = itk.imread(str(path))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return itk.array_from_image(image).T, np.diag([-1, -1, 1, 1]) @ affine


def dice(found, truth):
    return 2 * ((found > 0) & (truth > 0)).sum() / ((found > 0).sum() + (truth > 0).sum())


def test_info(slicer, truths):
    info = slicer("info")
    labels = {PHANTOM: {"body": 1, "core": 2}, HIPPOCAMPUS: {"anterior": 1, "posterior": 2}, LESION: {"lesion": 1}}
    for name in truths:
        assert info["models"][name]["labels"] == labels[name]
        assert info["models"][f"{name}_uncertainty"]["labels"] == level_names()
        assert info["models"][name]["config"]["members"] == 2
    assert set(info["trainers"]) == set(truths)
    assert {"uncertainty", "random", "first"} <= set(info["strategies"])
    assert info["labels"] == [label for name in truths for label in labels[name]]


@pytest.mark.parametrize("name", [PHANTOM, HIPPOCAMPUS, LESION])
def test_label_and_uncertainty_lie_on_the_scan(slicer, studies, truths, name):
    if name not in truths:
        pytest.skip("the data are not there")
    scan, label = truths[name][0]
    source = nib.load(scan)
    case = image_id(scan)

    file, numbers = slicer("infer", name, case, {**SLICER})
    found, affine = read_nrrd(file)
    assert found.dtype == np.uint8
    assert found.shape == source.shape[:3]
    assert np.allclose(affine, source.affine, atol=1e-4)
    # fails for flipped or swapped axes
    assert dice(found, np.asanyarray(nib.load(label).dataobj)) > {PHANTOM: 0.6, HIPPOCAMPUS: 0.8, LESION: 0.3}[name]
    volumes = numbers["volume_ml"]
    assert {key.lower() for key in volumes} == set(numbers["label_names"])
    voxel_ml = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    for value, key in enumerate(volumes, start=1):
        assert volumes[key]["segmentation"] == pytest.approx((found == value).sum() * voxel_ml, abs=1e-3)

    maps = {}
    for kind in ("entropy", "mutual-information"):
        saved = nib.load(studies / "labels" / kind / f"{case}.nii.gz")
        assert np.allclose(saved.affine, source.affine, atol=1e-4)
        maps[kind] = np.asanyarray(saved.dataobj)
        assert maps[kind].shape == source.shape[:3]
    assert maps["entropy"].max() > 0.2
    file, _ = slicer("infer", f"{name}_uncertainty", case, {**SLICER})
    levels, affine = read_nrrd(file)
    assert np.allclose(affine, source.affine, atol=1e-4)
    expected = entropy_levels(
        torch.from_numpy(np.ascontiguousarray(maps["entropy"], np.float32)), len(volumes) + 1
    ).numpy()
    assert (levels == expected).mean() > 0.9999
    assert levels.max() > 0


def test_options_of_a_request(slicer, truths):
    case = image_id(truths[PHANTOM][0][0])
    one = [slicer("infer", PHANTOM, case, {**SLICER, "seed": seed})[1] for seed in (0, 0, 1)]
    assert one[0]["volume_ml"] == one[1]["volume_ml"] != one[2]["volume_ml"]
    refused = slicer.ask("infer", PHANTOM, case, {**SLICER, "members": 0})
    assert "members: found 0, expected a whole number of at least 1" in refused["error"]
    assert "no model 'nothing'" in slicer.ask("infer", "nothing", case, {**SLICER})["error"]


def test_clients_at_once_get_their_own_answers(slicer, truths):
    """Send 24 requests from 8 clients; ``tools/reliability/endurance.py --requests 2000`` sends more."""
    port = int(slicer.url.rpartition(":")[2])
    questions = [Question(PHANTOM, image_id(scan), seed) for scan, _ in truths[PHANTOM][:2] for seed in (0, 1)]
    expected = {question: ask(port, question) for question in questions}
    assert len({answer.file for answer in expected.values()}) == len(questions)
    with ThreadPoolExecutor(8) as clients:
        outcomes = list(clients.map(lambda question: compare(port, question, expected[question]), questions * 6))
    assert outcomes == ["right"] * 24


def test_attacks_have_no_effect(slicer, studies, bundles, truths, tmp_path):
    port = int(slicer.url.rpartition(":")[2])
    server = Server(port, studies, bundles / PHANTOM, image_id(truths[PHANTOM][0][0]))
    found = on_server(server, tmp_path / "executed")
    assert len(found) > 10
    assert not [outcome for outcome in found if not outcome.held]


def test_the_scan_with_the_largest_disagreement_is_selected(slicer, studies, truths):
    slicer.post(f"/scoring/{PHANTOM}_disagreement")
    assert slicer.job("scoring")["status"] == "DONE"
    stored = json.loads((studies / "datastore_v2.json").read_text())["objects"]
    scores = {case: one["image"]["info"][f"{PHANTOM}_disagreement"] for case, one in stored.items()}
    for scan, _ in truths[PHANTOM]:
        _, numbers = slicer("infer", PHANTOM, image_id(scan), {**SLICER})
        assert scores[image_id(scan)] == pytest.approx(member_disagreement(numbers), abs=1e-4)
    if LESION in truths:  # its four channels are four frames to this bundle
        case = image_id(truths[LESION][0][0])
        assert scores[case] == -1
        assert "found 4 frames, expected one scan" in stored[case]["image"]["info"][f"{PHANTOM}_disagreement_note"]
    proposed = [slicer("next_sample", "uncertainty", {}) for _ in scores]
    assert [one["score"] for one in proposed] == sorted(scores.values(), reverse=True)
    assert {one["id"] for one in proposed} == set(scores)
    assert slicer("next_sample", "first", {})["id"] in scores
    assert "no such strategy" in slicer.ask("next_sample", "nothing", {})["error"]


def test_training(slicer, bundles, truths, tmp_path):
    """Refuse an unknown label; with the right labels the model improves and is used at once."""
    names = {"label_info": [{"name": "body", "idx": 1}, {"name": "core", "idx": 2}]}
    scan, label = truths[PHANTOM][0]
    truth = np.asanyarray(nib.load(label).dataobj)
    strange = truth.copy()
    strange[0, 0, 0] = 3
    nib.save(nib.Nifti1Image(strange, nib.load(label).affine), tmp_path / "strange.nii.gz")
    # Slicer imports the levels of the uncertainty as segments beside those of the label
    third = {"label_info": [*names["label_info"], {"name": next(iter(level_names())), "idx": 3}]}
    refused = slicer.ask("save_label", image_id(scan), str(tmp_path / "strange.nii.gz"), params=third)
    expected = (
        "found the label 3 (entropy_from_20_percent) in the annotation, expected 0 (background), 1 (body), 2 (core)"
    )
    assert f"{image_id(scan)}: {expected}" in refused["error"]
    for other, right in truths[PHANTOM]:
        slicer("save_label", image_id(other), str(right), params=names)
    request = {"max_epochs": 6, "learning_rate": 0.003, "val_split": 0.25}

    slicer("train_start", PHANTOM, request | {"val_split": 2})
    failed = slicer.job("train")
    assert failed["status"] == "ERROR"
    assert "error: val_split: found 2, expected a number above 0 and below 1" in failed["details"][-1]
    assert not any("Traceback" in line for line in failed["details"])

    model = bundles / PHANTOM / "models" / "model.pt"
    weights = torch.load(model, weights_only=True)
    for key in ("denoiser.head.4.weight", "denoiser.head.4.bias"):
        weights[key] = torch.zeros_like(weights[key])
    torch.save({"model": weights}, model)
    file, _ = slicer("infer", PHANTOM, image_id(scan), {**SLICER})
    assert dice(read_nrrd(file)[0], truth) == 0

    slicer("train_start", PHANTOM, request)
    trained = slicer.job("train")
    assert trained["status"] == "DONE", trained
    outcome = slicer("info")["train_stats"][PHANTOM]
    assert outcome["replaced"], outcome
    assert outcome["dice_after"] > outcome["dice_before"] == 0
    assert outcome["best_metric"] == outcome["dice_after"]
    assert outcome["epoch"] == outcome["total_epochs"] == 6
    assert outcome["total_time"].startswith("0:")
    assert any(outcome["message"] in line for line in trained["details"])
    file, _ = slicer("infer", PHANTOM, image_id(scan), {**SLICER})
    assert dice(read_nrrd(file)[0], truth) > 0


def test_stock_app(start, connect, environment, installed, studies, truths, tmp_path):
    """A bundle copied by put_bundle.py works in MONAI Label's own app."""
    run = {"check": True, "capture_output": True, "cwd": tmp_path}
    run["env"] = {**os.environ, "PYTHONPATH": str(installed)}
    words = ["-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output", tmp_path]
    subprocess.run([environment, *words], **run)
    words = [ROOT / "apps" / "monailabel" / "put_bundle.py", "--app", tmp_path / "monaibundle", "--bundle"]
    subprocess.run([environment, *words, ROOT / "bundles" / PHANTOM], **run)
    conf = ["models", PHANTOM], ["zoo_source", "ngc"], ["sam2", "false"]
    words = [word for pair in conf for word in ("--conf", *pair)]
    slicer = connect(*start(installed, "--app", tmp_path / "monaibundle", "--studies", studies, *words))
    model = slicer("info")["models"][PHANTOM]
    assert model["labels"] == {"body": 1, "core": 2}
    assert {"members", "num_steps"} <= set(model["config"])
    scan, label = truths[PHANTOM][-1]
    file, numbers = slicer("infer", PHANTOM, image_id(scan), {**SLICER, **FEW})
    found, affine = read_nrrd(file)
    assert np.allclose(affine, nib.load(scan).affine, atol=1e-4)
    assert dice(found, np.asanyarray(nib.load(label).dataobj)) > 0.6
    assert "agreement" in numbers["features"]


def test_a_server_that_cannot_start_prints_one_line(start, installed, app, studies, tmp_path):
    words = ["--app", app, "--studies", studies, "--conf", "bundles", tmp_path / "nowhere"]
    cases = {
        "monai_pdddpm is not installed for ": start(None, *words),
        f"bundles: found no folder {tmp_path / 'nowhere'}, ": start(installed, *words),
    }
    for expected, (process, _, log) in cases.items():
        assert process.wait(timeout=START) == 1
        text = log.read_text()
        assert text.splitlines()[-1].startswith(f"error: {expected}")
        assert "Traceback" not in text
