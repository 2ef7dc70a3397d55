"""Templates and bundles are found in a checkout and in what a wheel holds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.shipped import bundles, templates

ROOT = Path(__file__).parents[2]
PHANTOM = ROOT / "bundles" / "phantom_segmentation"


def test_checkout(capsys):
    assert templates() == ROOT / "configs"
    assert bundles() == ROOT / "bundles"
    assert main(["bundles", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["bundles"]
    assert set(found) == {path.name for path in (ROOT / "bundles").iterdir()}
    assert found[PHANTOM.name]["folder"] == str(PHANTOM)
    assert found[PHANTOM.name]["bytes"] == (PHANTOM / "models" / "model.pt").stat().st_size


def test_wheel(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for part in ("configs", "bundles", "monai_pdddpm"):
        unneeded = shutil.ignore_patterns("__pycache__", "output", *(["data"] if part == "bundles" else []))
        shutil.copytree(ROOT / part, source / part, ignore=unneeded)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package = tmp_path / "lib" / "monai_pdddpm"
    shipped = {path.relative_to(package / "configs") for path in (package / "configs").iterdir()}
    assert shipped == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").iterdir() if path.is_file()}
    phantom = package / "bundles" / "phantom_segmentation"
    for part in ("LICENSE", "configs/inference.json", "docs/README.md", "models/model.pt", "models/calibration.json"):
        assert (phantom / part).read_bytes() == (PHANTOM / part).read_bytes()
    command = [sys.executable, "-m", "monai_pdddpm", "bundles"]
    lines = subprocess.run(command, cwd=tmp_path / "lib", env={}, capture_output=True, text=True).stdout.splitlines()
    version = json.loads((PHANTOM / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    archive = f"hippocampus_mri_segmentation_v{version}.zip"
    assert f"hippocampus_mri_segmentation {version}: not in this package; unpack {archive} of the release" in lines
    size = (PHANTOM / "models" / "model.pt").stat().st_size / 1e6
    assert f"phantom_segmentation {version}, weights {size:.1f} MB: {phantom}" in lines
