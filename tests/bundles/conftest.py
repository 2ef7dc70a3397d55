"""Copies of the bundles in temporary folders, and MONAI's own commands on them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_pdddpm.data.phantom import write_phantom

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
TINY = (24, 28, 20)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# `python -m monai.bundle <words>` in a process forked from one that has imported MONAI: each command without the
# seconds of the imports
WARM = """
import json, os, runpy, sys
import monai.bundle, monai.networks.nets, monai_pdddpm.engines, monai_pdddpm.handlers, monai_pdddpm.inferers
import monai_pdddpm.networks, monai_pdddpm.transforms
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, name in enumerate(("out", "err"), start=1):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.chdir(job["cwd"])
        sys.path[0] = job["cwd"]
        sys.argv = ["monai.bundle", *job["words"]]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Done:
    """What a command left on its streams."""

    code: int
    out: str
    err: str

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def errors(self):
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def as_words(options):
    """Give overrides as MONAI's command line takes them."""
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def bundle_command():
    """Run ``python -m monai.bundle`` in a fresh process: ``bundle_command("run", "inference", cwd=..., seed=3)``."""

    def run(*words, cwd=None, **options):
        command = [sys.executable, "-m", "monai.bundle", *words, *as_words(options)]
        done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def warm_command(tmp_path_factory):
    """As `bundle_command`, several seconds faster: the process is forked from one that has imported MONAI."""
    folder = tmp_path_factory.mktemp("warm")
    process = subprocess.Popen(
        [sys.executable, "-c", WARM], cwd=folder, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*words, cwd=folder, **options):
        job = {"words": [*words, *as_words(options)], "cwd": str(cwd), "out": str(folder / "o"), "err": str(folder / "e")}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return Done(code, (folder / "o").read_text(), (folder / "e").read_text())

    yield run
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="session")
def copy_bundle(tmp_path_factory):
    """Copy a bundle into a folder of its own name; where its weights are not there yet, it gets random ones."""

    def copy(name="phantom_segmentation", weights=True, into=None):
        target = (into or tmp_path_factory.mktemp("bundle")) / name
        shutil.copytree(ROOT / "bundles" / name, target, ignore=lambda *_: ["data", "eval", "models", "output", "runs"])
        (target / "models").mkdir()
        model = ROOT / "bundles" / name / "models" / "model.pt"
        if weights and model.is_file():
            shutil.copy(model, target / "models")
        elif weights:
            torch.manual_seed(0)
            torch.save({"model": parse(target).get_parsed_content("network_def").state_dict()}, target / "models/model.pt")
        return target

    return copy


def parse(bundle, **overrides):
    """Read a bundle's inference as MONAI Label does: no initialize, no evaluator."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu", **overrides})
    return parser
