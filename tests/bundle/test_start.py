"""The folder of a running bundle, its device, and the checks before it runs."""

import json
import sys

import pytest
import torch

from monai_pdddpm.bundle import find_bundle_root, has_full_batch, pick_device, start_run
from monai_pdddpm.utils.errors import UserError


@pytest.fixture
def bundle(tmp_path):
    """A folder of the bundle 'one'."""
    (tmp_path / "one" / "configs").mkdir(parents=True)
    (tmp_path / "one" / "configs" / "metadata.json").write_text(json.dumps({"name": "one"}))
    return tmp_path / "one"


def test_the_folder_that_monai_puts_on_the_path_is_found(bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "none"), str(bundle)])
    assert find_bundle_root("one") == str(bundle)


def test_a_relative_path_becomes_absolute(bundle, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "one"])
    assert find_bundle_root("one") == str(bundle)


def test_elsewhere_it_is_the_working_directory_as_in_the_zoo(bundle, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(bundle)])
    assert find_bundle_root("two") == "."


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_metadata_are_passed_over(bundle, monkeypatch, text):
    (bundle / "configs" / "metadata.json").write_text(text)
    monkeypatch.setattr(sys, "path", ["", str(bundle)])
    assert find_bundle_root("one") == "."


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda:0"), (False, "cpu")])
def test_device(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert pick_device() == torch.device(expected)


def test_precision_that_the_device_does_not_have():
    with pytest.raises(UserError, match="float16"):
        start_run("cpu", "float16")


def test_last_batch_is_dropped_only_if_there_is_a_full_one():
    assert [has_full_batch(range(n), 4) for n in (3, 4, 5)] == [False, False, True]
