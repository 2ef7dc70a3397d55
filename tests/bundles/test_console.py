"""Names that the encoding of a console lacks, as of a redirected one on Windows, are escaped in output."""

import json
import shutil
import subprocess
import sys

import pytest

from .conftest import ENVIRONMENT, as_words

NAME = "患者1"
ESCAPED = NAME.encode("cp1252", "backslashreplace").decode("cp1252")


def run(module, *words, **options):
    command = [sys.executable, "-m", module, *map(str, words), *as_words(options)]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "cp1252"}
    return subprocess.run(command, env=environment, capture_output=True, encoding="cp1252", check=False)


@pytest.mark.slow
def test_all_output_is_written(bundle, phantom, tmp_path):
    scans, out = tmp_path / NAME, tmp_path / "out"
    scans.mkdir()
    shutil.copy(next((phantom / "imagesTs").iterdir()), scans / f"{NAME}.nii.gz")
    (scans / "dataset.json").write_text(json.dumps({"test": [f"{NAME}.nii.gz"]}), encoding="utf-8")
    small = {"members": 1, "num_steps": 2, "roi_size": [24, 24, 24], "device": "cpu"}
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": scans, "output_dir": out}
    done = run("monai.bundle", "run", "inference", **options, **small)
    assert done.returncode == 0, done.stderr
    assert "UnicodeEncodeError" not in done.stdout + done.stderr
    assert ESCAPED in done.stdout
    assert (out / "index.html").is_file()

    (out / NAME / f"{NAME}_seg.nii.gz").unlink()
    done = run("monai_pdddpm", "verify", out)
    assert done.returncode == 1
    assert ESCAPED in done.stdout
    assert not done.stderr
    done = run("monai_pdddpm", "verify", out, "--json")
    assert NAME in json.dumps(json.loads(done.stdout), ensure_ascii=False)
