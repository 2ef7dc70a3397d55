"""Requests to the MONAI Label app that would load code, or write outside the studies."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

from attacks import Outcome
from endurance_cases import make_scans
from payloads import PAYLOADS

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "apps"))
from label_server import phantom_server

BUNDLE = "phantom_segmentation"


class Server:
    """A running server.

    Attributes:
        port: port on 127.0.0.1.
        studies: folder of scans; nothing may be written beside it.
        bundle: folder of the phantom's bundle.
        scan: name of a scan.
    """

    def __init__(self, port: int, studies: Path, bundle: Path, scan: str) -> None:
        self.port, self.studies, self.bundle, self.scan = port, studies, bundle, scan

    def send(self, method: str, path: str, query: dict, fields: dict | None = None, file: bytes | None = None) -> str:
        """Send a form; return the status and the message."""
        edge = uuid.uuid4().hex
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in (fields or {}).items()
        ]
        if file is not None:
            name = "label" if "label" in path else "file"
            head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="a.nii.gz"\r\n\r\n'
            parts.append(head.encode() + file + b"\r\n")
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(query)}",
            data=b"".join([*parts, f"--{edge}--\r\n".encode()]),
            headers={"Content-Type": f"multipart/form-data; boundary={edge}"},
            method=method,
        )
        return self._answer(request)

    def from_a_web_page(self, method: str, path: str) -> str:
        """Send a request as a browser does for a page of another site; return the status and the message."""
        headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers, method=method)
        return self._answer(request)

    @staticmethod
    def _answer(request: urllib.request.Request) -> str:
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                return f"{answer.status}"
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError, KeyError):
                return f"{error.code}: {json.loads(error.read())['detail']}"
            return f"{error.code}"

    def infer(self, **params: object) -> str:
        """Request a segmentation."""
        return self.send("POST", f"/infer/{BUNDLE}", {"image": self.scan}, {"params": json.dumps(params)})


def on_server(server: Server, mark: Path) -> list[Outcome]:
    """Try all attacks on a running server; restore its model file afterwards."""
    before = _around(server)
    found = []

    def add(attack: str, place: str, line: str) -> None:
        line = line.replace(str(server.bundle.parent), "<bundles>").replace(str(mark.parent), "<outside>")
        outside = _around(server) != before
        status, _, message = line.partition(": ")
        refused = status in ("400", "403")
        found.append(Outcome(attack, place, mark.exists(), outside, refused, "refused", message or status))

    model = server.bundle / "models" / "model.pt"
    good, elsewhere = model.read_bytes(), server.bundle.parent / "evil.pt"
    for number, (payload, make) in enumerate(PAYLOADS.items()):
        make(model, mark)
        os.utime(model, (number, number))  # the server loads a changed file again
        add(payload, "/infer/, the server's model.pt", server.infer())
    model.write_bytes(good)
    PAYLOADS["pickle"](elsewhere, mark)
    add("model_filename with ../", "/infer/", server.infer(model_filename="../../evil.pt"))
    add("model_filename of another folder", "/infer/", server.infer(model_filename=str(elsewhere)))
    elsewhere.unlink()
    scan = (server.studies / f"{server.scan}.nii.gz").read_bytes()
    for name in ("../evil", f"{server.studies.parent}/evil", ".."):
        answer = server.send("PUT", "/datastore/image", {"image": name}, {"params": "{}"}, scan)
        add(f"scan named {name.replace(str(server.studies.parent), '/...')}", "/datastore/image", answer)
    for tag in ("../../evil", f"{server.studies.parent}/evil", ".."):
        answer = server.send("PUT", "/datastore/label", {"image": server.scan, "tag": tag}, {"params": "{}"}, scan)
        add(f"label with the tag {tag.replace(str(server.studies.parent), '/...')}", "/datastore/label", answer)
    add("a web page of another site reads scans", "/datastore/", server.from_a_web_page("GET", "/datastore/"))
    answer = server.from_a_web_page("OPTIONS", "/datastore/label")
    add("a web page of another site replaces labels", "/datastore/label", answer)
    answer = server.from_a_web_page("POST", f"/train/{BUNDLE}")
    add("a web page of another site starts a training", "/train/", answer)
    return found


def _around(server: Server) -> set[str]:
    """Return the files beside the studies."""
    return {str(path) for path in server.studies.parent.iterdir() if path.suffix != ".log"}


def server_outcomes() -> list[Outcome]:
    """Start a server and try all attacks on it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with phantom_server(folder, lambda studies: make_scans(studies, 1, (16, 16, 16))) as (_, port, studies, bundle):
            return on_server(Server(port, studies, bundle, "scan0000"), folder / "executed")
