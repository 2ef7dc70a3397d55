"""Mistyped keys are refused with the nearest name; paths are what was typed, whatever python-fire makes of them."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigWorkflow

from monai_pdddpm.bundle import given_settings
from monai_pdddpm.bundle.given_settings import typed_values
from monai_pdddpm.utils.errors import UserError, user_message

CONFIG = {
    "imports": ["$import monai_pdddpm"],
    "bundle_root": ".",
    "dataset_dir": "data",
    "output_dir": "$@bundle_root + '/output'",
    "model_file": "$@bundle_root + '/models/model.pt'",
    "segmenter_files": ["@model_file"],
    "num_steps": 5,
    "scan": {"_target_": "monai_pdddpm.data.ScanSpec", "channels": 1},
    "initialize": ["$monai_pdddpm.bundle.given_settings.check_given_settings()"],
    "run": ["$(@dataset_dir, @output_dir, @model_file, @segmenter_files, @num_steps, @scan)"],
}
PATHS = ("bundle_root", "dataset_dir", "output_dir", "model_file", "segmenter_files")


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        Path(name, "run.json").write_text(json.dumps(CONFIG))
        Path(name, "other.json").write_text(json.dumps({"epochs": 3, "loss": "L1", "initialize": []}))
        yield name


def ran(folder, key, text):
    """Return the value of a key after a command with ``--key text``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(given_settings, "is_command", lambda: True)
        patch.setattr(sys, "argv", ["monai.bundle", "run", f"--{key}", text])
        value = DefaultParseValue(text)
        overrides = {} if value is None else {key: value}  # MONAI leaves None out
        workflow = ConfigWorkflow(f"{folder}/run.json", logging_file=False, **overrides)
        workflow.initialize()
        return workflow.parser.get_parsed_content(key)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("text", ["12345", "2024_01_15", "1e3", "a,b", "{x}", "None", "True", "0x10", "(a)", "a "])
def test_names_that_python_fire_reads_as_something_else(folder, key, text):
    assert DefaultParseValue(text) != text
    assert ran(folder, key, text) == text


@pytest.mark.parametrize(("key", "default"), [("num_steps", 5), ("scan#channels", 1)])
def test_none_is_no_silent_default(folder, key, default):
    with pytest.raises(Exception) as caught:  # noqa: PT011, MONAI wraps it
        ran(folder, key, "None")
    assert user_message(caught.value).startswith(
        f"{key}: found None, which MONAI leaves out, expected a value; {default}"
    )


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12), st.sampled_from(PATHS))
@example("a#b", "output_dir")
@example("$x", "output_dir")
@example("@x", "dataset_dir")
@example("@dataset_dir", "dataset_dir")
@example("e\u0301", "dataset_dir")
@example("\ufb01le", "model_file")
def test_a_path_is_literal_or_refused_by_name(folder, text, key):
    if text == "~" or text.startswith(("%", "--", "'", '"', "[", "~/")):
        return  # MONAI's macro; an option; quotes and lists are python-fire's; the home folder
    try:
        found = ran(folder, key, text)
    except Exception as error:
        found = user_message(error) or repr(error)
    assert found == text or found.startswith(f"{key}: found "), text


def test_quotes_lists_and_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert ran(folder, "dataset_dir", "'12345'") == "12345"
    assert ran(folder, "dataset_dir", "~/scans") == "/home/me/scans"
    assert ran(folder, "segmenter_files", "['a.pt', 'b.pt']") == ["a.pt", "b.pt"]
    assert ran(folder, "output_dir", "$@bundle_root + '/x'") == "./x"


@pytest.mark.parametrize("value", [5, 1.5, True, ["a"], {"a": 1}])
def test_a_value_of_another_type_is_refused(folder, value):
    workflow = ConfigWorkflow(f"{folder}/run.json", logging_file=False, dataset_dir=value)
    with pytest.raises(Exception) as caught:  # noqa: PT011, MONAI wraps it
        workflow.initialize()
    assert user_message(caught.value) == f"dataset_dir: found {value!r}, expected a path; write --dataset_dir ./<name>"


def test_a_path_object_is_a_path(folder):
    workflow = ConfigWorkflow(f"{folder}/run.json", logging_file=False, dataset_dir=Path("a"))
    workflow.initialize()
    assert os.fspath(workflow.parser.get_parsed_content("dataset_dir")) == "a"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("num_stepz", "num_stepz: found an unknown key, expected .*; did you mean --num_steps?"),
        ("epochs", "epochs: found an unknown key"),  # of another command
        ("scan#chanels", "scan#chanels: found an unknown setting, expected channels"),
        ("steps", "steps: found a key of version 0.1, expected 'num_steps'"),
        ("scan", "scan: found 1, expected a part of the pipeline; .* --scan#<name>"),
        ("fusion", "fusion: found a key of version 0.1, which was removed"),
    ],
)
def test_mistyped_keys(folder, key, message):
    workflow = ConfigWorkflow(f"{folder}/run.json", logging_file=False, **{key: 1})
    with pytest.raises(Exception) as caught:  # noqa: PT011
        workflow.initialize()
    with pytest.raises(UserError, match=message):
        raise UserError(user_message(caught.value))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("._run.json", b"\0\5\x16\7\xff"),
        (".half.json", b'{"mine": 1}'),
        ("notes.json", b'["a note"]'),
        ("half.json", b"{"),
    ],
)
def test_files_that_are_no_configuration_have_no_keys(tmp_path, name, content):
    (tmp_path / "run.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_bytes(content)
    ConfigWorkflow(f"{tmp_path}/run.json", logging_file=False).initialize()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ConfigWorkflow(f"{tmp_path}/run.json", logging_file=False, mine=1).initialize()
    assert str(user_message(caught.value)).startswith("mine: found an unknown key")


def test_own_keys_that_something_refers_to_are_allowed(folder):
    overrides = {"mine": 3, "num_steps": "@mine", "also": "$@num_steps + 1", "_note": "x"}
    workflow = ConfigWorkflow(f"{folder}/run.json", logging_file=False, run_id="also", **overrides)
    workflow.initialize()
    assert workflow.run() == [4]


def test_a_calibration_that_is_given_must_exist(tmp_path):
    default = {"calibration_file": "$@bundle_root + '/models/calibration.json'", "calibrated": True}
    (tmp_path / "run.json").write_text(json.dumps(CONFIG | default))

    def start(**settings):
        ConfigWorkflow(f"{tmp_path}/run.json", logging_file=False, **settings).initialize()

    start()
    start(calibration_file=f"{tmp_path}/run.json")
    start(calibration_file="typo.json", calibrated=False)
    for name in ("typo.json", str(tmp_path)):
        with pytest.raises(Exception) as caught:  # noqa: PT011, MONAI wraps it
            start(calibration_file=name)
        assert str(user_message(caught.value)).startswith(f"calibration_file: found no file {name}, expected")


def test_words_as_python_fire_pairs_them():
    words = ["run", "inference", "--a", "1", "--b=2", "-c", "-5", "--my-key", "x", "--flag", "--last"]
    assert typed_values([]) == {}
    assert typed_values(words) == {"a": "1", "b": "2", "c": "-5", "my_key": "x"}
