"""Archives of a release: MONAI downloads one, and its bundle runs in any folder."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import create_workflow, download, load
from monai.data import MetaTensor

from monai_pdddpm import __version__
from monai_pdddpm.data import write_phantom
from monai_pdddpm.networks import PDDDPM

ROOT = Path(__file__).parents[2]
NAME = "phantom_segmentation"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    (folder / "some.whl").write_bytes(b"wheel")
    tool = [sys.executable, ROOT / "tools" / "archive_bundles.py", folder]
    subprocess.run(tool, check=True, capture_output=True)
    return folder


def test_the_version_is_the_same_everywhere():
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["required_packages_version"]["monai_pdddpm"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0] == ("Unreleased", __version__) or heads[0][0] == __version__


def test_checksums_cover_every_file(release):
    lines = dict(line.split("  ")[::-1] for line in (release / "SHA256SUMS").read_text().splitlines())
    files = {file.name: file.read_bytes() for file in release.iterdir() if file.name != "SHA256SUMS"}
    assert lines == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    bundles = sorted(path.name for path in (ROOT / "bundles").iterdir() if (path / "models" / "model.pt").is_file())
    assert [name.partition("_v")[0] for name in sorted(files)] == [*bundles, "some.whl"]
    again = release.parent / f"{release.name}_again"
    subprocess.run([sys.executable, ROOT / "tools" / "archive_bundles.py", again], check=True, capture_output=True)
    assert all((again / name).read_bytes() == content for name, content in files.items() if name.endswith(".zip"))


@pytest.mark.slow
def test_a_downloaded_bundle_runs_in_any_folder(release, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back what initialize changes
    (archive,) = release.glob(f"{NAME}_v*.zip")
    download(url=archive.as_uri(), bundle_dir=tmp_path / "zoo", progress=False, name=NAME)
    for kind in ("train", "inference"):
        assert isinstance(load(name=NAME, bundle_dir=tmp_path / "zoo", workflow_type=kind), PDDDPM)
    few = {"train": 0, "validation": 0, "test": 1}
    data = write_phantom(tmp_path / "data", **few, size=(24, 24, 24))
    workflow = create_workflow(
        config_file=str(tmp_path / "zoo" / NAME / "configs" / "inference.json"),
        workflow_type="inference",
        dataset_dir=str(data),
        **{"members": 1, "num_steps": 2, "roi_size": [24, 24, 24], "device": "cpu"},
    )
    workflow.run()
    assert Path(workflow.bundle_root) == tmp_path / "zoo" / NAME
    assert (tmp_path / "zoo" / NAME / "output" / "phantom_000" / "phantom_000_seg.nii.gz").is_file()
    assert isinstance(workflow.evaluator.state.output[0]["pred"], MetaTensor)
    assert not list((tmp_path / "elsewhere").iterdir())
