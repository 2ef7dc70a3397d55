"""A MONAI Label server in its own virtual environment, for tests and scripts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
APP = ROOT / "apps" / "monailabel"
START = 180  # seconds until a server must be ready


def make_environment() -> Path:
    """Return the Python of a virtual environment with MONAI Label and without monai_pdddpm; make it once.

    ``LABEL_PYTHON`` names the Python of another environment, to test another version of MONAI Label.
    """
    if chosen := os.environ.get("LABEL_PYTHON"):
        return Path(chosen)
    wanted = (APP / "requirements.txt").read_bytes()
    name = f"monai_pdddpm_label_{sys.version_info[0]}{sys.version_info[1]}_{hashlib.sha256(wanted).hexdigest()[:10]}"
    folder = Path(tempfile.gettempdir()) / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file():
        venv.create(folder, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", APP / "requirements.txt"], check=True)
        subprocess.run([*pip, "--no-deps", "monailabel==0.8.5", "pydicom-seg==0.4.1"], check=True)
        complete.touch()
    return python


def install_package(python: Path, source: Path, target: Path) -> Path:
    """Install monai_pdddpm into ``target`` from a copy in ``source``, so that the repository stays unchanged."""
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(ROOT / "monai_pdddpm", source / "monai_pdddpm", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source], check=True)
    return target


def copy_app(folder: Path) -> Path:
    """Copy the app, because a server writes into its folder."""
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("bin", "lib", "logs", "model", "__pycache__"))
    return folder


def copy_bundle(name: str, folder: Path, roi_size: list[int] | None = None) -> Path:
    """Copy a bundle into a folder; change the size of its windows."""
    hidden = shutil.ignore_patterns("data", "eval", "output", "runs")
    shutil.copytree(ROOT / "bundles" / name, folder / name, ignore=hidden)
    for file in (folder / name / "configs").glob("*.json") if roi_size else ():
        config = json.loads(file.read_text(encoding="utf-8"))
        if "roi_size" in config:
            file.write_text(json.dumps(config | {"roi_size": roi_size}), encoding="utf-8")
    return folder / name


def start_server(
    python: Path, site: Path | None, app: Path, log: Path, *words: object, settings: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen, int]:
    """Start a server in its own process group.

    Args:
        python: Python of the environment.
        site: folder with monai_pdddpm.
        app: the app, for its stub of torchvision.
        log: file for the output.
        words: arguments of ``start_server`` without host and port.
        settings: further environment variables.

    Returns:
        the process and its port on 127.0.0.1.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(path) for path in (site, app / "stub") if path]
    command = [python, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1", "--port", str(port)]
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    own |= {"PYTHONPATH": os.pathsep.join(paths), "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, words)],
            cwd=log.parent,  # monai_pdddpm is not importable from here
            env={**os.environ, **own, **(settings or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, port


def wait_until_ready(process: subprocess.Popen, port: int, log: Path) -> float:
    """Wait until a server answers; return the seconds."""
    begin = time.monotonic()
    while True:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < begin + START, log.read_text()[-4000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=5):
            return time.monotonic() - begin
        time.sleep(0.5)


@contextlib.contextmanager
def phantom_server(
    folder: Path, make_studies: Callable[[Path], object], weights: bool = True, **settings: str
) -> Iterator[tuple[int, int, Path, Path]]:
    """Run a server of the phantom's bundle with 2 members in one step.

    Args:
        folder: empty folder for the server.
        make_studies: writes the scans into a new folder, or returns the address of a DICOMweb server.
        weights: False leaves out the bundle's weights and calibration.
        settings: further environment variables.

    Yields:
        process id, port, folder of the studies, folder of the bundle; temporary files go to ``folder/temporary``.
    """
    for part in ("source", "site", "bundles", "temporary", "around"):
        (folder / part).mkdir()
    python, studies, log = make_environment(), folder / "around" / "studies", folder / "server.log"
    site, app = install_package(python, folder / "source", folder / "site"), copy_app(folder / "app")
    bundle = copy_bundle("phantom_segmentation", folder / "bundles", [16, 16, 16])
    for file in (bundle / "models").iterdir() if not weights else ():
        file.unlink()
    address = make_studies(studies)
    place = address if isinstance(address, str) else studies
    words = ["--app", app, "--studies", place, "--conf", "bundles", bundle]
    words += ["--conf", "members", 2, "--conf", "num_steps", 1]
    settings = {"TMPDIR": str(folder / "temporary"), **settings}
    process, port = start_server(python, site, app, log, *words, settings=settings)
    try:
        wait_until_ready(process, port, log)
        yield process.pid, port, studies, bundle
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
