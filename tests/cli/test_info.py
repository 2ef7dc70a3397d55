"""``info`` reads JSON without torch and executes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.info import bundle_info
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]
PHANTOM = ROOT / "bundles" / "phantom_segmentation"


def test_phantom(capsys):
    found = bundle_info(PHANTOM)
    assert found["labels"] == {"0": "background", "1": "body", "2": "core"}
    assert (found["members"], found["num_steps"], found["start_step"]) == (8, 5, None)
    assert list(found["chains"]) == ["2", "3", "5", "10"]
    assert found["denoiser"] == "monai_pdddpm.networks.ODEUNet"
    assert found["model.pt"] is found["calibration.json"] is True
    assert main(["info", str(PHANTOM)]) == 0
    assert "chain: 5 steps at time indices 999, 950, 827, 642, 400; 8 members" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"start_step": 900, "end_step": 0}, "chain: 5 steps from T' = 900 to index 0; "),
        ({"start_step": 900}, "chain: 5 steps from T' = 900; "),
        ({"num_steps": 4}, "chain: 4 steps; "),  # not stored
        ({"chains": "@others"}, "chain: 5 steps; "),
    ],
)
def test_chain_in_words(changes, line, tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    for name in ("inference.json", "metadata.json"):
        content = json.loads((PHANTOM / "configs" / name).read_text(encoding="utf-8"))
        content |= changes if name == "inference.json" else {}
        (tmp_path / "configs" / name).write_text(json.dumps(content))
    assert main(["info", str(tmp_path)]) == 0
    assert line in capsys.readouterr().out


def test_without_torch():
    code = (
        "import sys; from monai_pdddpm.__main__ import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    for words in (["info", str(PHANTOM)], ["verify", str(ROOT / "bundles")]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--quiet"], capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith(" []\n")


def test_nothing_is_executed(tmp_path, capsys):
    bundle, trace = tmp_path / "bundle", tmp_path / "trace"
    (bundle / "configs").mkdir(parents=True)
    bad = f"$__import__('os').system('touch {trace}')"
    call = {"_target_": "os.system", "command": f"touch {trace}"}
    config = json.loads((PHANTOM / "configs" / "inference.json").read_text(encoding="utf-8"))
    config |= {"imports": [bad], "members": bad, "num_steps": "@bad", "bad": bad, "roi_size": bad}
    config |= {"spacing": [1.0, bad, 1.0], "labels": {"1": bad}, "segmenter_def": call, "network_def": call}
    metadata = {"name": bad, "version": bad, "task": [bad]}
    for name, content in (("inference", config), ("metadata", metadata)):
        (bundle / "configs" / f"{name}.json").write_text(json.dumps(content))
    assert main(["info", str(bundle)]) == 0
    assert bad in capsys.readouterr().out  # shown as it is written
    assert not trace.exists()


def test_no_bundle(tmp_path):
    with pytest.raises(UserError, match="name the folder of a bundle"):
        bundle_info(tmp_path)
