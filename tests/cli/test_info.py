"""What a bundle does is told from its JSON, without torch and without executing anything in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monai_pdddpm.cli.info import as_lines, bundle_info
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]
PHANTOM = ROOT / "bundles" / "phantom_segmentation"


def test_phantom():
    found = bundle_info(PHANTOM, (48, 100, 40))
    config = json.loads((PHANTOM / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert found["labels"] == config["labels"]
    assert (found["members"], found["num_steps"], found["start_step"]) == (8, config["num_steps"], 1000)
    assert found["cost"] == {
        "denoiser_evaluations_per_window": 8 * config["num_steps"],
        "size": [48, 100, 40],
        "windows": 3,  # 100 voxels by windows of 56, half overlapping
        "denoiser_evaluations": 3 * 8 * config["num_steps"],
    }
    assert any("8 members" in line for line in as_lines(found))


def test_end_step():
    assert bundle_info(ROOT / "bundles" / "hippocampus_mri_segmentation")["end_step"] == 600


def test_without_torch():
    code = (
        "import sys; from monai_pdddpm.__main__ import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "info", str(PHANTOM), "--quiet"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 []\n"


def test_nothing_is_executed(tmp_path):
    bundle, trace = tmp_path / "bundle", tmp_path / "trace"
    (bundle / "configs").mkdir(parents=True)
    bad = f"$__import__('os').system('touch {trace}')"
    config = json.loads((PHANTOM / "configs" / "inference.json").read_text(encoding="utf-8"))
    config |= {
        "imports": [bad],
        "members": bad,
        "num_steps": "@bad",
        "bad": bad,
        "roi_size": bad,
        "spacing": [1.0, bad, 1.0],
        "end_step": {"share": bad},
    }
    config |= {"labels": {"1": bad}, "segmenter_def": {"_target_": "os.system", "command": f"touch {trace}"}}
    metadata = {"name": bad, "version": bad, "task": [bad]}
    for name, content in (("inference", config), ("metadata", metadata)):
        (bundle / "configs" / f"{name}.json").write_text(json.dumps(content))
    found = bundle_info(bundle, (8, 8, 8))
    assert found["members"] == found["num_steps"] == bad  # shown as it stands there
    assert "\n".join(as_lines(found))
    assert found["cost"] == {"denoiser_evaluations_per_window": None}
    assert not trace.exists()


def test_no_bundle(tmp_path):
    with pytest.raises(UserError, match="name the folder of a bundle"):
        bundle_info(tmp_path)


def test_size_that_does_not_fit():
    with pytest.raises(UserError, match="expected 3 numbers of voxels"):
        bundle_info(PHANTOM, (8, 8))
