"""Templates are found in a checkout and in what a wheel holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from monai_pdddpm.cli.templates import license_file, templates

ROOT = Path(__file__).parents[2]


def test_checkout():
    assert templates() == ROOT / "configs"
    assert license_file() == ROOT / "LICENSE"


def test_wheel(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    command += ["--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "from monai_pdddpm.cli import templates as t; print(t.templates(), t.license_file(), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "lib", env={}, capture_output=True, text=True)
    folder = tmp_path / "lib" / "monai_pdddpm" / "configs"
    assert found.stdout.splitlines() == [str(folder), str(folder / "LICENSE")]
    assert {file.name for file in folder.iterdir()} == {
        *(file.name for file in (ROOT / "configs").iterdir() if file.is_file()),
        "LICENSE",
    }
    assert not (ROOT / "build").exists()
