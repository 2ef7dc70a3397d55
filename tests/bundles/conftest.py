"""Copies of the bundles in temporary folders, MONAI's own commands on them, and small phantoms to run them on."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_pdddpm.data import write_phantom

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# runs `python -m monai.bundle <words>` in forks of a process that has the imports behind it, one for each environment
FORKING = """
import json, os, runpy, sys
import monai.bundle, monai.networks.nets
import monai_pdddpm.engines, monai_pdddpm.handlers, monai_pdddpm.inferers, monai_pdddpm.transforms
for line in sys.stdin:
    job, children = json.loads(line), []
    for number, environment in enumerate(job["environments"]):
        children.append(os.fork())
        if children[-1] == 0:
            for stream, name in enumerate(("out", "err"), start=1):
                os.dup2(os.open(f"{job[name]}{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            os.environ.update(environment)
            os.chdir(job["cwd"])
            sys.argv = ["monai.bundle", *job["words"]]
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            sys.exit()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@dataclass
class Done:
    """What a command left behind on its streams."""

    code: int
    out: str
    err: str

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def error(self):
        """The one line that tells the user of a mistake, the last one of a command that failed; else None."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        told = self.code == 1 and len(lines) == 1 and self.err.endswith(f"{lines[0]}\n")
        return lines[0] if told and "Traceback" not in self.out + self.err else None


def as_words(options):
    """Write options as MONAI's command line takes them."""

    def as_text(value):
        return str([str(file) for file in value] if isinstance(value, list) and isinstance(value[0], Path) else value)

    return [word for key, value in options.items() for word in (f"--{key}", as_text(value))]


def pytest_generate_tests(metafunc):
    if "bundle_name" in metafunc.fixturenames:
        metafunc.parametrize("bundle_name", BUNDLES, scope="session")


@pytest.fixture(scope="session")
def fresh_command():
    """Run ``python -m monai.bundle``: ``fresh_command("run", "inference", config_file=..., seed=3)``."""

    def run(*words, cwd=None, **options):
        command = [sys.executable, "-m", "monai.bundle", *words, *as_words(options)]
        done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def started_command():
    """Start the same and return the process; what still runs at the end of the test is killed."""
    started = []

    def start(*words, **options):
        command = [sys.executable, "-m", "monai.bundle", *words, *as_words(options)]
        started.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Run a command in forks, one for each environment, and return what each left behind."""
    folder = tmp_path_factory.mktemp("command")
    streams = {"out": str(folder / "out"), "err": str(folder / "err")}
    forking = subprocess.Popen(
        [sys.executable, "-c", FORKING], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(environments, words, cwd=folder):
        job = {"environments": environments, "words": words, "cwd": str(cwd), **streams}
        forking.stdin.write(json.dumps(job) + "\n")
        forking.stdin.flush()
        codes = json.loads(forking.stdout.readline())
        texts = [
            [Path(f"{file}{i}").read_text(encoding="utf-8") for file in streams.values()] for i in range(len(codes))
        ]
        return [Done(code, *text) for code, text in zip(codes, texts, strict=True)]

    yield run
    forking.stdin.close()
    forking.wait()


@pytest.fixture(scope="session")
def command(forked):
    """As `fresh_command`, without the seconds that the imports take."""

    def run(*words, **options):
        where = {"cwd": options.pop("cwd")} if "cwd" in options else {}
        (done,) = forked([{}], [*words, *as_words(options)], **where)
        return done

    return run


@pytest.fixture(scope="session")
def two_commands(forked):
    """The same in two processes that find each other as if torchrun had started them."""

    def run(*words, **options):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [place | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(2)]
        return forked(ranks, [*words, *as_words(options)])

    return run


@pytest.fixture(scope="session")
def read_inference():
    """Read a bundle's inference.json for work in this process: the parser, nothing instantiated."""

    def read(bundle, **overrides):
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / "inference.json")
        parser.read_meta(bundle / "configs" / "metadata.json")
        parser.update({"bundle_root": str(bundle), "device": "cpu", **overrides})
        return parser

    return read


@pytest.fixture(scope="session")
def copy_bundle(tmp_path_factory, read_inference):
    """Copy a bundle into a folder of its own name. As long as it has no weights, the copy gets random ones."""

    def copy(name="phantom_segmentation", into=None, weights=True):
        source, target = ROOT / "bundles" / name, (into or tmp_path_factory.mktemp("bundle")) / name
        target.mkdir(parents=True)
        for part in ("configs", "docs"):
            shutil.copytree(source / part, target / part)
        shutil.copy(source / "LICENSE", target)
        (target / "models").mkdir()
        model = target / "models" / "model.pt"
        if weights and (source / "models" / "model.pt").is_file():
            shutil.copy(source / "models" / "model.pt", model)
        elif weights:
            torch.manual_seed(0)
            torch.save(read_inference(target).get_parsed_content("network_def").state_dict(), model)
        return target

    return copy


@pytest.fixture(scope="session")
def bundle(copy_bundle):
    """A copy of the phantom's bundle that no test changes."""
    return copy_bundle()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Labelled phantoms of 24 x 24 x 24 voxels: 4 to train on, 2 for validation, 2 for test."""
    target = tmp_path_factory.mktemp("phantom") / "data"
    few = {"train": 4, "validation": 2, "test": 2, "annotations": 1}
    return write_phantom(target, **few, size=(24, 24, 24), spacing=(1.5, 1.5, 1.5), seed=5)


@pytest.fixture(scope="session")
def data_for(phantom, tmp_path_factory):
    """The phantoms as scans of so many channels, all alike, with labels 0 and 1."""

    def make(channels):
        if channels == 1:
            return phantom
        target = tmp_path_factory.mktemp("channels") / "data"
        shutil.copytree(phantom, target)
        for path in target.glob("images*/*.nii.gz"):
            image = nib.load(path)
            volumes = np.repeat(np.asanyarray(image.dataobj)[..., None], channels, axis=-1)
            nib.save(nib.Nifti1Image(volumes, image.affine), path)
        for path in target.glob("labels*/*.nii.gz"):
            image = nib.load(path)
            nib.save(nib.Nifti1Image((np.asanyarray(image.dataobj) > 0).astype(np.uint8), image.affine), path)
        return target

    return make
