"""The Dockerfile's steps run in folders and virtual environments; where an engine runs, the image is built and used."""

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = [line.split(maxsplit=1) for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line]
STEPS = [(name, words[0] if words else "") for name, *words in LINES if name != "#"]
NOT_HERE = ("useradd", "chown")  # they would change the users of this computer


def test_instructions_fit_the_repository():
    assert {name for name, _ in STEPS} <= {"ARG", "CMD", "COPY", "ENTRYPOINT", "FROM", "RUN", "USER", "WORKDIR"}
    for source in (words.split()[0] for name, words in STEPS if name == "COPY" and "--from" not in words):
        assert (ROOT / source).exists()
    assert ("USER", "1000") in STEPS
    assert "monai_pdddpm/data" not in (ROOT / ".dockerignore").read_text(encoding="utf-8")


class Stage:
    """A folder in place of the root of an image, and an empty virtual environment in place of its Python."""

    def __init__(self, folder):
        self.root, self.workdir = folder / "root", folder / "root"
        self.root.mkdir(parents=True)
        venv.create(folder / "python", with_pip=True)
        others = folder / "bin"
        others.mkdir()
        for name in NOT_HERE:
            (others / name).write_text("#!/bin/sh\n")
            (others / name).chmod(0o755)
        path = os.pathsep.join(map(str, (others, folder / "python" / "bin", os.environ["PATH"])))
        self.environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
        self.environment.pop("PYTHONPATH", None)

    def inside(self, text):
        """Return a text with the absolute paths below the root."""
        return re.sub(r"(?<![\w.])/(?=\w)", f"{self.root}/", text)

    def run(self, command):
        shell = not isinstance(command, list)
        subprocess.run(command, shell=shell, check=True, cwd=self.workdir, env=self.environment)

    def copy(self, source, target):
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()

        def ignore(folder, names):
            below = Path(folder).relative_to(source)
            return [name for name in names if any((below / name).match(pattern) for pattern in ignored)]

        shutil.copytree(source, self.inside(target), ignore=ignore)


@pytest.mark.slow
def test_steps(tmp_path):
    """Run each step; the last is the default command, and the demo with the installed wheel."""
    stages = {}
    for name, words in STEPS:
        if name == "FROM":
            label = words.partition(" AS ")[2] or "last"
            stage = stages[label] = Stage(tmp_path / label)
        elif name == "COPY":
            *options, source, target = words.split()
            origin = [stages[option.removeprefix("--from=")] for option in options]
            stage.copy(Path(origin[0].inside(source)) if origin else ROOT / source, target)
        elif name == "RUN":
            stage.run(stage.inside(words))
        elif name == "WORKDIR":
            stage.workdir = Path(stage.inside(words))
        elif name in ("ENTRYPOINT", "CMD"):
            stage.__dict__[name] = json.loads(words)
    stage.run(stage.ENTRYPOINT + stage.CMD)
    stage.run([*stage.ENTRYPOINT, "monai_pdddpm", "demo"])
    assert (stage.root / "work" / "pdddpm_demo" / "results" / "index.html").is_file()
    assert (stage.root / "bundles" / "phantom_segmentation" / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_image(tmp_path):
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine runs here")
    tmp_path.chmod(0o777)
    subprocess.run([docker, "build", "--quiet", "--tag", "monai-pdddpm-test", ROOT], check=True)
    run = [docker, "run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/work", "monai-pdddpm-test"]
    subprocess.run([*run, "monai_pdddpm", "demo"], check=True)
    assert (tmp_path / "pdddpm_demo" / "results" / "index.html").is_file()
