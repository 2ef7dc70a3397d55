"""The checks of the model zoo's ``ci/verify_bundle.py -m full`` that need no network, as its code makes them."""

import json
import os
import re
import sys

import pytest
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

from .test_monai_tools import MOST_BYTES, ROOT, SCHEMA


@pytest.fixture
def in_the_zoo(copy_bundle, bundle_name, tmp_path, monkeypatch):
    """The zoo's folder as working directory; the bundle's path is relative to it."""
    copy_bundle(bundle_name, into=tmp_path / "models")
    (tmp_path / "models" / bundle_name / "eval").mkdir()
    schema = tmp_path / "models" / bundle_name / "eval" / "schema.json"
    schema.write_text(SCHEMA.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [f"models/{bundle_name}", *sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back what initialize changes
    return f"models/{bundle_name}"


def test_files_and_version(in_the_zoo):
    for file in ("configs/metadata.json", "LICENSE", "models/model.pt", "configs/inference.json"):
        assert os.path.isfile(f"{in_the_zoo}/{file}"), file
    for folder, _, files in os.walk(in_the_zoo):
        assert all(os.path.getsize(os.path.join(folder, file)) < MOST_BYTES for file in files)
    with open(f"{in_the_zoo}/configs/metadata.json", encoding="utf-8") as file:
        metadata = json.load(file)
    assert metadata["version"] in metadata["changelog"]
    # pip installs these pairs as name==version
    wanted = metadata["required_packages_version"]
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in wanted.values())
    assert f'__version__ = "{wanted["monai_pdddpm"]}"' in (ROOT / "monai_pdddpm" / "__init__.py").read_text()


@pytest.mark.slow
def test_metadata_network_and_export(in_the_zoo, tmp_path):
    """The calls have the arguments of the zoo; in particular, no key for the weights."""
    meta, config = f"{in_the_zoo}/configs/metadata.json", f"{in_the_zoo}/configs/inference.json"
    verify_metadata(meta_file=meta, filepath=f"{in_the_zoo}/eval/schema.json")
    files = {"meta_file": meta, "config_file": config, "bundle_root": in_the_zoo}
    verify_net_in_out(net_id="network_def", **files)
    made, weights = f"{in_the_zoo}/models/verify_model.ts", f"{in_the_zoo}/models/model.pt"
    ckpt_export(net_id="network_def", filepath=made, ckpt_file=weights, **files)
    exported, stored = torch.jit.load(made).state_dict(), torch.load(weights, weights_only=True)
    assert stored.keys() <= exported.keys()
    assert all(torch.equal(exported[key], value.to(exported[key].dtype)) for key, value in stored.items())
