"""The files of a release, and the wheel in an empty environment and another folder."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from monai_pdddpm import __version__
from monai_pdddpm.data import write_phantom

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PHANTOM = ROOT / "bundles" / "phantom_segmentation"
NEEDED = ("monai_pdddpm", "bundles", "configs", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md")
MADE = shutil.ignore_patterns("__pycache__", "output", "runs", "eval")
FEW = {"max_epochs": 1, "val_interval": 1, "batch_size": 2, "train#sampler#num_samples": 4}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Wheel and source archive; the wheel is built from the archive."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*NEEDED, "LICENSE"):
        copy = shutil.copy if (ROOT / name).is_file() else lambda *names: shutil.copytree(*names, ignore=MADE)
        copy(ROOT / name, source / name)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def scripts(dist, tmp_path_factory):
    """Folder of the programs of an environment with the wheel; it takes dependencies from the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (wheel,) = dist.glob("*.whl")
    pip = [scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    return scripts


@pytest.fixture
def run(scripts, tmp_path):
    """Run a program of that environment in another folder; return its output."""

    def run(program, *words, **options):
        words = [*words, *(word for key, value in options.items() for word in (f"--{key}", value))]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [scripts / program, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_contents_of_the_wheel(dist):
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"monai_pdddpm-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = message_from_bytes(archive.read(f"monai_pdddpm-{__version__}.dist-info/METADATA"))
        for part in ("LICENSE", "configs/inference.json", "docs/README.md", "models/model.pt"):
            inside = archive.read(f"monai_pdddpm/bundles/phantom_segmentation/{part}")
            assert inside == (PHANTOM / part).read_bytes()
    shipped = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*.*")}
    assert {f"monai_pdddpm/{name}" for name in shipped} <= names
    assert not [name for name in names if re.search(r"/(data/dataset.json|output|runs|tests)/|\.nii", name)]
    assert wheel.stat().st_size < 4e6
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(about.get_all("Provides-Extra")) == set(setup["options.extras_require"])
    assert about["License-Expression"] or about["License"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.10"
    assert {"Programming Language :: Python :: 3.10", "Programming Language :: Python :: 3.14"} <= {
        *about.get_all("Classifier")
    }


def test_contents_of_the_source_archive(dist):
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {*NEEDED, "LICENSE", "bundles/phantom_segmentation/models/model.pt", "configs/_new_task.json"}
    assert expected <= names


def test_demo(run, tmp_path):
    assert run("monai-pdddpm", "--version").strip() == __version__
    listed = json.loads(run("monai-pdddpm", "bundles", "--json"))["bundles"]
    assert str(ROOT) not in listed[PHANTOM.name]["folder"]
    assert listed["hippocampus_mri_segmentation"]["archive"] == f"hippocampus_mri_segmentation_v{__version__}.zip"
    page = Path(json.loads(run("monai-pdddpm", "demo", "--json"))["page"])
    assert page == tmp_path / "pdddpm_demo" / "results" / "index.html"
    assert page.is_file()
    assert len(list(page.parent.glob("phantom_000/phantom_000_*.nii.gz"))) == 7
    run("monai-pdddpm", "verify", page.parent)


def test_from_data_to_maps(run, tmp_path):
    few = {"train": 6, "validation": 2, "test": 1, "annotations": 1, "size": (24, 24, 24)}
    write_phantom(tmp_path / "data", **few)
    run("monai-pdddpm", "create-bundle", "tiny_segmentation", dataset="data/dataset.json")
    configs = tmp_path / "bundles" / "tiny_segmentation" / "configs"
    bundle = ("python", "-m", "monai.bundle", "run")
    small = {"roi_size": "[24,24,24]", "device": "cpu"}
    for stage in ("train_segmenter", "train"):
        run(*bundle, "training", config_file=configs / f"{stage}.json", **small, **FEW)
    steps = {"members": 2, "num_steps": 2}
    run(*bundle, "inference", config_file=configs / "inference.json", **small, **steps, output_dir="out")
    assert (tmp_path / "out" / "index.html").is_file()
    run("monai-pdddpm", "verify", "out")
