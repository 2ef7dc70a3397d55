"""Run each block of shell and Python of each page as it is typed.

Each page gets its own copy of the repository, where its blocks run one after the other. ``python``, ``torchrun`` and
``.venv/bin/python`` are the Python that runs the tests, with the imports done (`python_server`); ``pip`` runs with
``--dry-run``. Tables here replace placeholders and shorten the work. A new block is run without an entry anywhere; a
block that cannot be run here needs an entry in `NOT_RUN`.
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

from ..data.test_dicom_seg import write_series
from .python_server import CLIENT

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*/*.md")),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
]
PHANTOM, HIPPOCAMPUS = "bundles/phantom_segmentation", "bundles/hippocampus_mri_segmentation"

# text of a block that is not run -> the reason, and the test that covers it
NOT_RUN = {
    "train-folds": "minutes; tests/cli/test_train_folds.py covers it",
    "-m pytest": "the tests themselves; .ci/run runs this line",
    "tools/reliability/bad_input.py": "minutes; tests/reliability/test_bad_input.py covers it",
    "configs/export_args.json": "a minute; tests/bundles/test_monai_tools.py runs them for each bundle",
    "--presegmentation": "needs the files of another program; tests/cli/test_first_stage.py runs them",
    "nnUNetv2_": "nnU-Net; tests/cli/test_nnunet.py installs it and runs these lines",
    "calibrate-files": "needs the files of two networks; tests/cli/test_calibrate_files.py runs it",
    "#SBATCH": "needs Slurm and GPUs; the first block of the page runs torchrun",
    "MonaiBundleInferenceOperator": "needs Holoscan; tests/bundles/test_deploy.py runs the operator's code",
    "python -m build": "minutes; tests/test_wheel.py and tests/tools/test_archive_bundles.py run these lines",
    "label-env/bin/pip": "two gigabytes; tests/apps installs the same lines into its own environment",
    "Slicer --python-script": "needs 3D Slicer; tests/viewer/test_slicer.py runs the script with a stand-in",
    "curl ": "needs a server; tests/apps/test_plain_client.py sends this request",
    "monailabel.main": "servers; tests/apps starts them with these lines and sends requests",
}
# placeholder -> value; {data}: a folder of small scans for the page's bundle
PUT_IN = {
    "<task>": "phantom_segmentation",
    "<data>": "{data}",
    "<scans>": "{data}/imagesTs",
    "<folder>": "series",
    "<results>": "my_results",
    "<trained on patient 19>": "bundles/ms_lesion_mri_segmentation/models/model.pt",
    "/data/dataset.json": "{data}/dataset.json",
}
# a word of a bundle's command -> options that make the command take seconds
WINDOW = "--roi_size [24,24,24]"
SHORTER = {
    "training": f"--max_epochs 1 --val_interval 1 --batch_size 2 {WINDOW}",
    "inference": f"--members 2 --num_steps 2 {WINDOW}",
    "evaluating": f"--members 2 --num_steps 2 {WINDOW}",
    "calibrating": f"--members 2 --num_steps 2 {WINDOW}",
    "export": f"--members 1 --num_steps 1 {WINDOW}",
    **{
        f"{name}_segmentation/configs/train": "--train#sampler#num_samples 4"
        for name in ("liver_ct", "spleen_ct", "ms_lesion_mri")
    },
}
SHORTER_PYTHON = {
    "phantom_060": "phantom_011",
    "members=16": "members=2, num_steps=2, roi_size=[24, 24, 24]",
    "1, 1, 40, 56, 40": "1, 1, 24, 24, 24",
}
# text of a block that does not run in the repository's root -> its folder
FOLDERS = {'"ensemble.onnx"': f"{HIPPOCAMPUS}/export"}
# a line of the documents -> files that must exist after it
LEAVES = {
    "-e . && .venv/bin/python -m monai.bundle run inference": [f"{PHANTOM}/output/index.html"],
    "dicom-seg": ["my_results/series/series_seg.dcm"],
    "seg-nrrd": ["my_results/*/*_seg.seg.nrrd"],
    "run export --config_file": [f"{HIPPOCAMPUS}/export/ensemble.onnx", f"{HIPPOCAMPUS}/export/ensemble.ts"],
    "cine.nii.gz": [f"{PHANTOM}/output/cine/cine_seg.nii.gz"],
    "--json > findings.json": ["findings.json"],
    "liver_ct_segmentation/configs/inference.json": ["bundles/liver_ct_segmentation/output/*/*_entropy.nii.gz"],
    "--segmenter zoo": ["bundles/spleen_ct_segmentation/models/model.pt"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its first line, language and text."""

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
    """A folder with ``python``, ``python3``, ``pip`` and ``torchrun``, to go first in ``PATH``."""
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
    few = {"train": 5, "validation": 6, "test": 1, "annotations": 1}
    one = write_phantom(folder / "one", **few, size=(24, 24, 24), seed=5)
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
    """Write a bundle in the layout of the model zoo, for scans of one channel and two labels."""
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
    """Runs a page block by block in a copy of the repository."""

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
        scan = nib.load(next((data["one"] / "imagesTs").iterdir()))
        nib.save(
            nib.Nifti1Image(np.stack([scan.get_fdata(dtype=np.float32)] * 2, -1), scan.affine), folder / "cine.nii.gz"
        )
        write_zoo_bundle(folder / "zoo" / "spleen_ct_segmentation")
        path = os.pathsep.join([str(commands), os.environ["PATH"]])
        more = {"PATH": path, "PYTHON_EXEC": str(commands / "python"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self.environment = {**os.environ, **more, "CUDA_VISIBLE_DEVICES": ""}

    def read_up_to(self, block):
        """Run the remaining blocks of the page up to this one."""
        blocks = [each for each in BLOCKS[self.page] if each.runs]
        for each in blocks[self.done : blocks.index(block) + 1]:
            self.done += 1
            self.run(each)

    def run(self, block):
        text = block.text
        for words, what in PUT_IN.items():
            text = text.replace(words, what.format(data=self.data))
        assert not (left := re.findall(r"<[\w ]+>", text)), f"{block}: add {left} to PUT_IN"
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
        shown = f"{block}: exit code {done.returncode}\n{text}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == 0, shown
        assert "Traceback" not in done.stderr, shown
        for words, files in LEAVES.items():
            if words in block.text:
                missing = [file for file in files if not list(self.folder.glob(file))]
                assert not missing, f"{block}: does not leave {', '.join(missing)}\n{shown}"


@pytest.fixture(scope="module")
def readers(commands, data, tmp_path_factory):
    """``readers(page)`` returns the page's reader and deletes the folders of earlier pages."""
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
def test_block_that_is_not_run_parses(block):
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_pages_have_been_read():
    """A fence with another spelling would be skipped."""
    fences = [each for page in PAGES for each in re.findall(r"^ *```(\w+)", page.read_text(encoding="utf-8"), re.M)]
    assert set(fences) <= {"sh", "python", "json", "yaml", "math"}
    assert sum(each in ("sh", "python") for each in fences) == len(ALL)
    text = "\n".join(block.text for block in ALL)
    for words in [*NOT_RUN, *PUT_IN, *SHORTER_PYTHON, *FOLDERS, *LEAVES]:
        assert words in text, f"{words}: is in no block; remove it from its table"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_a_sentence_name_what_is_there(page):
    for words in re.findall(r"`(?:\S+=\S+ )*python (-m )?([\w./]+)", page.read_text(encoding="utf-8")):
        module, name = words
        if module:
            assert importlib.util.find_spec(name), f"{page}: python -m {name}"
        else:
            assert (ROOT / name).is_file(), f"{page}: python {name}"
