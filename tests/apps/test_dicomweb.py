"""The app with the scans of an Orthanc server, read and written by DICOMweb."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from label_server import make_environment, phantom_server

from ..data.test_dicom_seg import COLUMNS, ROWS, SLICES, write_series
from .test_plain_client import NAMES, Client, read, written

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="MONAI Label 0.8.5 needs Python below 3.12"),
    pytest.mark.skipif(not (ORTHANC and PLUGIN.is_file()), reason="needs Debian's orthanc and orthanc-dicomweb"),
]

SERIES = "1.2.826.0.1.3680043.8.498.1"


def request(url, data=None):
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """Address of a server on the loopback that has one series."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ORTHANC, folder / "settings.json"], stdout=log, stderr=log)
    address, begin = f"http://127.0.0.1:{port}", time.monotonic()
    while True:
        try:
            request(f"{address}/system")
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < begin + 60, (folder / "log").read_text()
            time.sleep(0.5)
    row, column = np.mgrid[:ROWS, :COLUMNS]
    inside = (row - ROWS / 2) ** 2 + (column - COLUMNS / 2) ** 2 < (ROWS / 4) ** 2
    noise = np.random.default_rng(1).integers(0, 30, (SLICES, ROWS, COLUMNS))
    write_series(folder / "series", pixels=lambda plane: 200 + 300 * inside + noise[plane])
    for file in (folder / "series").iterdir():
        request(f"{address}/instances", file.read_bytes())
    yield address
    process.terminate()
    process.wait()


def test_segment_and_submit(orthanc, tmp_path):
    settings = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache"), "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1"}
    # the folder of itkimage2segimage
    settings["PATH"] = os.pathsep.join([str(make_environment().parent), os.environ["PATH"]])
    (tmp_path / "server").mkdir()
    with phantom_server(tmp_path / "server", lambda _: f"{orthanc}/dicom-web", **settings) as (
        _,
        port,
        studies,
        bundle,
    ):
        client = Client(port, studies, bundle, SERIES)
        assert client.post("/activelearning/first")["id"] == SERIES
        image, numbers = client.segment(SERIES)
        assert image.shape == (COLUMNS, ROWS, SLICES)
        assert set(numbers["volume_ml"]) == {"body", "core"}
        entropy = read(client.get("/datastore/label", label=SERIES, tag="entropy"))
        assert np.allclose(entropy.affine, image.affine, atol=1e-3)

        label = np.zeros(image.shape, np.uint8)
        label[2:6, 3:7, 1:4] = 1
        strange = label.copy()
        strange[0, 0, 0] = 7
        assert "found the label values 7" in client.submit(SERIES, written(strange, image.affine))
        assert client.submit(SERIES, written(label, image.affine)) == "200"
    series = [json.loads(request(f"{orthanc}/series/{one}")) for one in json.loads(request(f"{orthanc}/series"))]
    (seg,) = (one for one in series if one["MainDicomTags"]["Modality"] == "SEG")
    (tmp_path / "seg.dcm").write_bytes(request(f"{orthanc}/instances/{seg['Instances'][0]}/file"))
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    assert int(found.pixel_array.sum()) == int(label.sum())
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == [NAMES["label_info"][0]["name"]]
    assert nib.aff2axcodes(image.affine)
