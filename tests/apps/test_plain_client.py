"""Requests of a client that knows only HTTP and the API's documentation, without the options that Slicer adds."""

import email
import gzip
import json
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from attacks_on_server import Server
from label_server import phantom_server

from monai_pdddpm.data import write_phantom

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="MONAI Label 0.8.5 needs Python below 3.12"),
]

MODEL = "phantom_segmentation"
NAMES = {"label_info": [{"name": "body", "idx": 1}, {"name": "core", "idx": 2}]}
CORRUPT = "corrupt"


class Client(Server):
    """Plain requests; ``send`` returns the status and the message of an error."""

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()

    def post(self, path, **words):
        url, head = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data=json.dumps(words).encode(), headers=head)
        with urllib.request.urlopen(request, timeout=240) as answer:
            return json.load(answer)

    def segment(self, scan):
        """Return label map and numbers of an inference without any option."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/infer/{MODEL}?image={scan}", data=b"")
        with urllib.request.urlopen(request, timeout=240) as answer:
            kind, content = answer.headers["Content-Type"], answer.read()
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
        numbers, file = (part.get_payload(decode=True) for part in message.get_payload())
        return read(file), json.loads(numbers)

    def submit(self, scan, label, params=NAMES):
        return self.send("PUT", "/datastore/label", {"image": scan}, {"params": json.dumps(params)}, label)

    def job(self, path):
        """Wait for a training or a batch; return its status."""
        begin = time.monotonic()
        while time.monotonic() < begin + 300:
            task = json.loads(self.get(path))
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(1)
        raise TimeoutError(task)


def read(content):
    """Return a NIfTI image from the content of its file."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def written(array, affine):
    return gzip.compress(nib.Nifti1Image(array, affine).to_bytes())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    few = {"train": 3, "validation": 0, "test": 0, "annotations": 1}
    target = tmp_path_factory.mktemp("phantom") / "data"
    return write_phantom(target, **few, size=(16, 16, 16), spacing=(1.5, 1.5, 1.5), seed=5)


@pytest.fixture(scope="module")
def labels(phantom):
    """Content of each scan's label."""
    return {f.name.removesuffix(".nii.gz"): f.read_bytes() for f in sorted((phantom / "labelsTr").iterdir())}


def serve(folder, phantom, **options):
    def make(studies):
        shutil.copytree(phantom / "imagesTr", studies)
        (studies / f"{CORRUPT}.nii.gz").write_bytes(next(studies.iterdir()).read_bytes()[:2000])

    return phantom_server(folder, make, **options)


@pytest.fixture(scope="module")
def client(tmp_path_factory, phantom, labels):
    with serve(tmp_path_factory.mktemp("server"), phantom) as (_, port, studies, bundle):
        yield Client(port, studies, bundle, next(iter(labels)))


def test_answer_without_options_is_a_small_label_map(client, labels):
    image, numbers = client.segment(client.scan)
    truth = read(labels[client.scan])
    assert image.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, truth.affine, atol=1e-4)
    assert image.shape == truth.shape
    assert set(numbers["volume_ml"]) == {"body", "core"}


def test_uncertainty_maps_are_labels_of_the_datastore(client, phantom):
    client.segment(client.scan)
    scan = nib.load(phantom / "imagesTr" / f"{client.scan}.nii.gz")
    for tag in ("entropy", "mutual-information"):
        saved = read(client.get("/datastore/label", label=client.scan, tag=tag))
        values = np.asanyarray(saved.dataobj)
        assert values.dtype.kind == "f"
        assert values.shape == scan.shape
        assert np.allclose(saved.affine, scan.affine, atol=1e-4)
        assert 0 < values.max() <= np.log(3) + 1e-4
        info = json.loads(client.get("/datastore/label/info", label=client.scan, tag=tag))
        assert info["model"] == MODEL
    assert client.scan not in [pair["image"] for pair in json.loads(client.get("/datastore/", output="train"))]


def test_batch(client, labels):
    client.post(f"/batch/infer/{MODEL}?images=all")
    done = client.job("/batch/infer")
    assert done["status"] == "DONE"
    assert any(line.startswith("error: ") and f"{CORRUPT}.nii.gz" in line for line in done["details"]), done
    time.sleep(5)  # the server notices what the job wrote
    for scan in labels:
        assert read(client.get("/datastore/label", label=scan, tag="original")).get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("query", "params", "expected"),
    [
        ({"image": "nowhere"}, {}, "400: image: found 'nowhere', expected a scan of the studies"),
        ({"image": CORRUPT}, {}, "400: "),
        ({}, {"members": "2.5"}, "400: members: found '2.5', expected a whole number of at least 1"),
        ({}, {"members": 2.5}, "400: members: found 2.5, expected a whole number"),
        ({}, {"seed": "zero"}, "400: seed: found 'zero', expected a whole number"),
    ],
)
def test_bad_requests_for_a_segmentation(client, query, params, expected):
    query = {"image": client.scan} | query
    answer = client.send("POST", f"/infer/{MODEL}", query, {"params": json.dumps(params)})
    assert answer.startswith(expected)
    assert "\n" not in answer


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/infer/nothing", "There is no model 'nothing' available"),
        ("/train/nothing", "model: found 'nothing', expected one of phantom_segmentation;"),
        ("/batch/infer/nothing", "model: found 'nothing', expected one of phantom_segmentation;"),
        ("/activelearning/nothing", "There is no such strategy 'nothing' available"),
    ],
)
def test_a_bundle_that_is_not_installed(client, path, expected):
    url = f"http://127.0.0.1:{client.port}{path}?image={client.scan}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, data=b"", method="POST"), timeout=60)
    assert refused.value.code == 400
    answer = json.loads(refused.value.read())["detail"]
    assert expected in answer
    assert "\n" not in answer


def test_bad_labels_are_refused_at_once(client, labels):
    truth = read(labels[client.scan])
    voxels = np.asanyarray(truth.dataobj)
    strange, moved = voxels.copy(), truth.affine.copy()
    strange[0, 0, 0], moved[0, 3] = 3, moved[0, 3] + 10
    answers = {
        "found the label values 3, expected whole numbers from 0 to 2": client.submit(
            client.scan, written(strange, truth.affine)
        ),
        "voxels away from their scan": client.submit(client.scan, written(voxels, moved)),
        "label 1 (core), 2 (body)": client.submit(
            client.scan, labels[client.scan], {"label_info": [{"name": "core"}, {"name": "body"}]}
        ),
        "image: found 'nowhere'": client.submit("nowhere", labels[client.scan]),
        f"label of {client.scan}: cannot be read": client.submit(client.scan, labels[client.scan][:200]),
        "Expecting": client.send(
            "PUT", "/datastore/label", {"image": client.scan}, {"params": "no JSON"}, labels[client.scan]
        ),
    }
    for expected, answer in answers.items():
        assert answer.startswith("400: "), answer
        assert expected in answer
    assert json.loads(client.get("/datastore/", output="train")) == []


def test_two_clients_submit_one_scan(client, labels):
    truth = read(labels[client.scan])
    versions = [written(np.asanyarray(truth.dataobj) * keep, truth.affine) for keep in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda version: client.submit(client.scan, version), versions * 4))
    assert answers == ["200"] * 8
    assert client.get("/datastore/label", label=client.scan, tag="final") in versions


def test_a_training_that_fails(client, labels):
    for scan, label in labels.items():
        assert client.submit(scan, label) == "200"
    client.post(f"/train/{MODEL}", learning_rate="fast")
    failed = client.job("/train/")
    assert failed["status"] == "ERROR"
    assert "error: learning_rate: found 'fast', expected a number" in failed["details"][-1]
    client.segment(client.scan)  # the server lives


def test_a_bundle_without_weights(tmp_path, phantom, labels):
    with serve(tmp_path, phantom, weights=False) as (_, port, studies, bundle):
        client = Client(port, studies, bundle, next(iter(labels)))
        info = json.loads(client.get("/info/"))
        assert info["models"][MODEL]["labels"] == {"body": 1, "core": 2}
        assert info["trainers"][MODEL]["config"]["stage"] == ["both"]
        for strategy in ("uncertainty", "random", "first"):
            assert client.post(f"/activelearning/{strategy}")["id"] in {*labels, CORRUPT}
        refused = client.infer()
        assert refused.startswith("400: ")
        assert "found no weights, expected a trained model; submit labels of 2 scans, then train" in refused
        client.post(f"/scoring/{MODEL}_disagreement")
        assert client.job("/scoring/")["status"] == "DONE"
        for scan, label in labels.items():
            assert client.submit(scan, label) == "200"
        client.post(f"/train/{MODEL}", max_epochs=2)
        trained = client.job("/train/")
        assert trained["status"] == "DONE", trained
        outcome = json.loads(client.get("/info/"))["train_stats"][MODEL]
        assert outcome["replaced"]
        assert outcome["total_epochs"] == 4
        assert outcome["dice_before"] is None
        client.segment(client.scan)
        assert "denoiser" in json.loads(client.get("/info/"))["trainers"][MODEL]["config"]["stage"]
