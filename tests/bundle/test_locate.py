"""The bundle's folder is found wherever the command is typed."""

import json
import os
from pathlib import Path

import pytest
import torch

from monai_pdddpm.bundle import find_bundle_root, pick_device
from monai_pdddpm.utils.errors import UserError


def bundle(folder, name):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": name}))
    for file in ("train.json", "inference.json"):
        (folder / "configs" / file).write_text("{}")
    return folder


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository with two bundles, and the working directory in it."""
    for name in ("one", "two"):
        bundle(tmp_path / "repo" / "bundles" / name, name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "repo")
    return tmp_path / "repo"


def test_from_the_repository(repo):
    assert find_bundle_root("one", []) == str(repo / "bundles" / "one")
    assert find_bundle_root("two", []) == str(repo / "bundles" / "two")


def test_from_the_bundle_s_folder(repo, monkeypatch):
    monkeypatch.chdir(repo / "bundles" / "two")
    assert find_bundle_root("two", []) == str(repo / "bundles" / "two")
    assert find_bundle_root("two", ["run", "--config_file", "configs/train.json"]) == str(repo / "bundles" / "two")


@pytest.mark.parametrize(
    "words",
    [
        ["--config_file", "{}/configs/train.json"],
        ["--config_file={}/configs/train.json"],
        ["run", "training", "--seed", "1", "--config_file", "{}/configs/train.json", "--x", "2"],
        ["--config_file", "['{}/configs/train.json','{}/configs/inference.json']"],
        ["--config_file", "['{}/configs/train.json', \"{}/configs/inference.json\"]"],
        ["--config_file", "[{}/configs/train.json,{}/configs/inference.json]"],
        ["--config_file=('{}/configs/train.json',)"],
        ["--config_file", "['/nowhere/configs/x.json', '{}/configs/train.json']"],
    ],
)
def test_from_elsewhere_by_the_configuration(repo, monkeypatch, words):
    monkeypatch.chdir(repo.parent / "elsewhere")
    root = str(repo / "bundles" / "one")
    assert find_bundle_root("one", [word.replace("{}", root) for word in words]) == root
    relative = os.path.relpath(root)
    assert find_bundle_root("one", [word.replace("{}", relative) for word in words]) == root


def test_command_line_is_the_program_s(repo, monkeypatch):
    monkeypatch.chdir(repo.parent / "elsewhere")
    monkeypatch.setattr("sys.argv", ["-m", "run", "--config_file", str(repo / "bundles/one/configs/train.json")])
    assert find_bundle_root("one") == str(repo / "bundles" / "one")


def test_configuration_goes_before_the_working_directory(repo, tmp_path):
    copy = bundle(tmp_path / "my copy, [of] = one", "one")
    assert find_bundle_root("one", ["--config_file=" + str(copy / "configs" / "train.json")]) == str(copy)


def test_folder_with_another_name_than_the_bundle(repo, tmp_path, monkeypatch):
    renamed = bundle(tmp_path / "v2", "one")
    monkeypatch.chdir(renamed)
    assert find_bundle_root("one", []) == str(renamed)


def test_links_are_followed_to_one_name(repo, tmp_path, monkeypatch):
    os.symlink(repo / "bundles" / "one", tmp_path / "link")
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["--config_file", str(tmp_path / "link" / "configs" / "train.json")]
    assert find_bundle_root("one", words) == str(repo / "bundles" / "one")


@pytest.mark.parametrize("words", [[], ["--config_file"], ["--config_file", ""], ["--config_file", "train.json"]])
def test_not_found_is_told_with_a_way_out(repo, monkeypatch, words):
    monkeypatch.chdir(repo.parent / "elsewhere")
    with pytest.raises(UserError) as caught:
        find_bundle_root("one", words)
    text = str(caught.value)
    assert text.startswith("bundle_root: the folder of the bundle 'one' was not found from ")
    assert str(Path.cwd()) in text
    assert "--bundle_root" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"name": "two"}', "{}"])
def test_metadata_of_something_else(repo, tmp_path, monkeypatch, content):
    folder = bundle(tmp_path / "other", "one")
    (folder / "configs" / "metadata.json").write_text(content)
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="bundle_root: "):
        find_bundle_root("one", [])


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda:0"), (False, "cpu")])
def test_device(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device() == torch.device(expected)
