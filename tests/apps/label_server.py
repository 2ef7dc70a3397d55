"""A MONAI Label server in a virtual environment of its own, for tests and for scripts that watch it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
APP = ROOT / "apps" / "monailabel"
START = 180  # seconds that are waited for a server at most


def make_environment() -> Path:
    """Return the Python of a virtual environment with MONAI Label and without monai_pdddpm; it is made once."""
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
    """Install monai_pdddpm into ``target``, from a copy in ``source`` so that nothing is left in the repository."""
    for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(ROOT / "monai_pdddpm", source / "monai_pdddpm", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source], check=True)
    return target


def copy_app(folder: Path) -> Path:
    """Copy the app, since a server writes into its folder."""
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("bin", "lib", "logs", "model", "__pycache__"))
    return folder


def copy_bundle(name: str, folder: Path, roi_size: list[int] | None = None) -> Path:
    """Copy a bundle into a folder, with windows of another size."""
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
    """Start a server, in a process group of its own.

    Args:
        python: of the environment.
        site: folder that monai_pdddpm was installed into.
        app: our app, for its stub.
        log: file for what it prints.
        words: of ``start_server``, but for host and port.
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
            cwd=log.parent,  # not where monai_pdddpm would be found without being installed
            env={**os.environ, **own, **(settings or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, port


def wait_until_ready(process: subprocess.Popen, port: int, log: Path) -> float:
    """Wait until a server answers, and return the seconds that it took."""
    begin = time.monotonic()
    while True:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < begin + START, log.read_text()[-4000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/info/", timeout=5):
            return time.monotonic() - begin
        time.sleep(0.5)
