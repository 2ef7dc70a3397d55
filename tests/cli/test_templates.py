"""Templates are found in a checkout and in what a wheel holds."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from monai_pdddpm.cli.templates import license_file, templates
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def test_checkout():
    assert templates() == Path(str(files("monai_pdddpm"))).parent / "configs" == ROOT / "configs"
    assert license_file(templates()) == ROOT / "LICENSE"


def test_wheel(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    command += ["--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = templates(tmp_path / "lib" / "monai_pdddpm")
    assert found == tmp_path / "lib" / "monai_pdddpm" / "configs"
    assert {file.name for file in found.iterdir()} == {
        *(file.name for file in (ROOT / "configs").iterdir() if file.is_file()),
        "LICENSE",
    }
    assert license_file(found) == found / "LICENSE"
    assert not (ROOT / "build").exists()


def test_neither(tmp_path):
    with pytest.raises(UserError, match="install monai_pdddpm again"):
        templates(tmp_path / "monai_pdddpm")
