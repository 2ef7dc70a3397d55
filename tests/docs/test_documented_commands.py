"""The commands of the documents, as they are typed: each block of shell and Python of each page is run.

A page gets a copy of the repository for itself, where its blocks are run one after the other. ``python``, ``torchrun``
and ``.venv/bin/python`` are the Python that runs the tests, with the imports done (`python_server`); ``pip`` tells
what it would install. What a reader has to put in, and what makes the work short, stands in the tables here. A new
block is run without being listed anywhere; one that cannot be run here needs an entry in `NOT_RUN`.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet

from monai_pdddpm.data import write_phantom

from ..transforms.test_dicom_seg import write_series
from .python_server import CLIENT

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]
PHANTOM, HIPPOCAMPUS = "bundles/phantom_segmentation", "bundles/hippocampus_mri_segmentation"

# what stands in a block that is not run -> why, and what is done instead
NOT_RUN = {
    "-m pytest": "the tests themselves; tests/test_style.py and .ci/run hold the line",
    "tests/faults/make_corpus.py": "minutes; tests/faults/test_corpus.py makes the same table",
    "tests/faults/kill.py": "half an hour; tests/faults/test_kill.py runs a part of it",
    "tests/faults/fuzz.py": "minutes; tests/faults/test_fuzz.py tries some inputs of each target",
    "configs/export_args.json": "a minute; tests/bundles/test_monai_tools.py runs them for each bundle",
    "#SBATCH": "needs Slurm and GPUs; torchrun itself is run from the page's first block",
    "label-env/bin/pip": "two gigabytes; tests/apps installs the same lines into an environment of its own",
    "monailabel.main": "servers; tests/apps starts them with these words and asks them",
}
# words of the documents -> what a reader would put there; {data}: a folder of small scans for the page's bundle
PUT_IN = {
    "<task>": "phantom_segmentation",
    "<data>": "{data}",
    "<scans>": "{data}/imagesTs",
    "<folder>": "series",
    "<results>": "my_results",
    "<trained on patient 19>": "bundles/ms_lesion_mri_segmentation/models/model.pt",
    "/data/dataset.json": "{data}/dataset.json",
}
# a word of a bundle's command -> what is added to the command, so that it takes seconds
WINDOW = "--roi_size [24,24,24]"
SHORTER = {
    "training": f"--max_epochs 1 --val_interval 1 --batch_size 2 {WINDOW}",
    "inference": f"--members 2 --num_steps 2 {WINDOW}",
    "evaluating": f"--members 2 --num_steps 2 {WINDOW}",
    "calibrating": f"--members 2 --num_steps 2 {WINDOW}",
    "export": f"--members 1 --num_steps 1 {WINDOW}",
    **{
        f"{name}_segmentation/configs/train": "--train#dataloader#sampler#num_samples 4"
        for name in ("liver_ct", "spleen_ct", "ms_lesion_mri")
    },
}
SHORTER_PYTHON = {"members=16": "members=2, num_steps=2, roi_size=[24, 24, 24]", "1, 1, 40, 56, 40": "1, 1, 24, 24, 24"}
# what stands in a block that is not run in the repository's root -> where
FOLDERS = {'"ensemble.onnx"': f"{HIPPOCAMPUS}/export"}
# a line of the documents -> what it leaves, as they say
LEAVES = {
    "-e . && .venv/bin/python -m monai.bundle run inference": [f"{PHANTOM}/output/index.html"],
    "--write_dicom_seg True": ["my_results/series/series_seg.dcm"],
    "--write_seg_nrrd True": ["my_results/*/*_seg.seg.nrrd"],
    "run export --config_file bundles": [f"{HIPPOCAMPUS}/export/ensemble.onnx", f"{HIPPOCAMPUS}/export/ensemble.ts"],
    "/data/series": [f"{PHANTOM}/output/phantom_series_*/*_seg.nii.gz"],
    "cross_fitting.json": [f"{PHANTOM}/runs/segmenter_fold4/segmenter.pt", f"{PHANTOM}/models/model.pt"],
    "--json > findings.json": ["findings.json"],
    "--denoiser_file $B/models/model.pt": ["runs/two/model.pt", "runs/two/evaluation/evaluation_summary.json"],
    "liver_ct_segmentation/configs/inference.json": ["bundles/liver_ct_segmentation/output/*/*_entropy.nii.gz"],
    "--segmenter zoo": ["bundles/spleen_ct_segmentation/models/model.pt"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: the line it begins in, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def runs(self):
        return not any(words in self.text for words in NOT_RUN)


def read_blocks(page):
    """Return the blocks of shell and Python of a page."""
    found = re.finditer(r"^```(sh|python)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = page.read_text(encoding="utf-8")
    return [Block(page, lines.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in found]


BLOCKS = {page: read_blocks(page) for page in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder with ``python``, ``python3``, ``pip`` and ``torchrun``, to be put before ``PATH``."""
    folder = tmp_path_factory.mktemp("bin")
    address = str(folder / "socket")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, Path(__file__).with_name("python_server.py"), address, json.dumps(SHORTER)]
    server = subprocess.Popen(words, env=environment, start_new_session=True)
    texts = {
        "python": CLIENT.format(python=sys.executable, address=address),
        "pip": f'#!/bin/sh\nshift\nexec {sys.executable} -m pip install --dry-run --no-build-isolation --quiet "$@"\n',
        "python3": f'#!/bin/sh\n[ "$2" = venv ] && mkdir -p "$3/bin" && ln -sf {folder}/p* "$3/bin"\n',
        "torchrun": '#!/bin/sh\nexec python -m torch.distributed.run "$@"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    while not Path(address).exists():
        assert server.poll() is None
        time.sleep(0.1)
    yield folder
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small scans with labels, of one channel and two labels, and of four channels and one label."""
    folder = tmp_path_factory.mktemp("data")
    few = {"train": 5, "validation": 6, "test": 1, "series": 1, "annotations": 1}
    one = write_phantom(folder / "one", **few, size=(24, 24, 24), seed=5, progress=False)
    four = shutil.copytree(one, folder / "four")
    for path in four.glob("images*/*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.repeat(image.get_fdata(dtype=np.float32)[..., None], 4, -1), image.affine), path)
    for path in four.glob("labels*/*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image((np.asanyarray(image.dataobj) > 0).astype(np.uint8), image.affine), path)
    content = json.loads((four / "dataset.json").read_text())
    content |= {"modality": {str(n): f"channel {n}" for n in range(4)}, "labels": {"0": "background", "1": "lesion"}}
    (four / "dataset.json").write_text(json.dumps(content))
    return {"one": one, "four": four}


def write_zoo_bundle(folder):
    """Write a bundle as the model zoo has them, for scans of one channel and two labels."""
    arguments = {"in_channels": 1, "out_channels": 3, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    content = {
        "network_def": {"_target_": "SegResNet", "spatial_dims": 3, **arguments},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "NormalizeIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [24, 24, 24]},
    }
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    torch.save(SegResNet(spatial_dims=3, **arguments).state_dict(), folder / "models" / "model.pt")


class Reader:
    """Does what a page says, block by block, in a copy of the repository."""

    def __init__(self, page, folder, commands, data):
        self.page, self.folder, self.done = page, folder, 0
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in listed.decode().split("\0"):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        self.data = data["four" if "ms_lesion" in str(page) else "one"]
        shutil.copytree(data["one"], folder / PHANTOM / "data")
        for name in ("my_scans", "new_scans"):
            shutil.copytree(data["one"] / "imagesTs", folder / name)
        shutil.copytree(data["one"], folder / "hippocampus")
        shutil.copytree(data["four"], folder / "ms_lesions")
        write_series(folder / "series")
        write_zoo_bundle(folder / "zoo" / "spleen_ct_segmentation")
        path = os.pathsep.join([str(commands), os.environ["PATH"]])
        more = {"PATH": path, "PYTHON_EXEC": str(commands / "python"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.environment = {**os.environ, **more, "CUDA_VISIBLE_DEVICES": ""}

    def read_up_to(self, block):
        """Run the blocks of the page that were not run yet, up to this one."""
        blocks = [each for each in BLOCKS[self.page] if each.runs]
        for each in blocks[self.done : blocks.index(block) + 1]:
            self.done += 1
            self.run(each)

    def run(self, block):
        text = block.text
        for words, what in PUT_IN.items():
            text = text.replace(words, what.format(data=self.data))
        assert not (left := re.findall(r"<[\w ]+>", text)), f"{block}: say in PUT_IN what {left} stands for"
        folder = self.folder / next((where for words, where in FOLDERS.items() if words in text), "")
        if block.language == "python":
            for words, shorter in SHORTER_PYTHON.items():
                text = text.replace(words, shorter)
            (folder / "typed.py").write_text(text)
            text = "python typed.py"
        typed = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            typed,
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        told = f"{block}: exit code {done.returncode}\n{text}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == 0, told
        assert "Traceback" not in done.stderr, told
        for words, files in LEAVES.items():
            if words in block.text:
                missing = [file for file in files if not list(self.folder.glob(file))]
                assert not missing, f"{block}: has left no {', '.join(missing)}\n{told}"


@pytest.fixture(scope="module")
def readers(commands, data, tmp_path_factory):
    """``readers(page)``: the page's reader; of those before it nothing is kept."""
    found = {}

    def get(page):
        if page not in found:
            for other in found.values():
                shutil.rmtree(other.folder, ignore_errors=True)
            found[page] = Reader(page, tmp_path_factory.mktemp("repository"), commands, data)
        return found[page]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in ALL if block.runs], ids=str)
def test_block(readers, block):
    readers(block.page).read_up_to(block)


@pytest.mark.parametrize("block", [block for block in ALL if not block.runs and block.language == "sh"], ids=str)
def test_block_that_is_not_run_is_shell_at_least(block):
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_pages_have_been_read():
    """A fence that is spelt otherwise would be passed over."""
    fences = [each for page in PAGES for each in re.findall(r"^ *```(\w+)", page.read_text(encoding="utf-8"), re.M)]
    assert set(fences) <= {"sh", "python", "json", "math"}
    assert sum(each in ("sh", "python") for each in fences) == len(ALL)
    text = "\n".join(block.text for block in ALL)
    for words in [*NOT_RUN, *PUT_IN, *SHORTER_PYTHON, *FOLDERS, *LEAVES]:
        assert words in text, f"{words}: stands in no block any more; take it out of its table"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_a_sentence_name_what_is_there(page):
    for words in re.findall(r"`(?:\S+=\S+ )*python (-m )?([\w./]+)", page.read_text(encoding="utf-8")):
        module, name = words
        if module:
            assert importlib.util.find_spec(name), f"{page}: python -m {name}"
        else:
            assert (ROOT / name).is_file(), f"{page}: python {name}"
