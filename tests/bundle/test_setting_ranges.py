"""A setting out of its range, or of another type, is refused in one line before anything is read."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigWorkflow

from monai_pdddpm.bundle.setting_ranges import LISTS, PER_AXIS, RANGES, check_setting
from monai_pdddpm.utils.errors import UserError, user_message

BUNDLES = Path(__file__).parents[2] / "bundles"
COUNTS = ("batch_size", "max_epochs", "members", "num_steps", "processes_per_device", "scans_per_subject")
COUNTS += ("val_interval", "val_members")
FROM_0 = ("end_step", "folds", "num_workers", "seed", "start_step")
HIGHEST = {"end_step": 999, "start_step": 1000, "seed": 2**63 - 1}
SWITCHES = ("calibrated", "largest_component", "overwrite", "resume")
OBJECTS = ("chains", "dicom_codes", "labels")
SPANS = {"checkpoint_seconds": (0, 1e9), "learning_rate": (1e-12, 10), "presegmentation_weight": (0, 1 - 2**-53)}


def refused(key, value):
    with pytest.raises(UserError, match=f"^{key}: found .*, expected ") as caught:
        check_setting(key, value)
    return str(caught.value)


def test_each_number_of_the_shipped_bundles_has_a_range():
    found = set()
    for file in BUNDLES.glob("*/configs/*.json"):
        for key, value in json.loads(file.read_text(encoding="utf-8")).items():
            numbers = value if isinstance(value, list) else [value]
            if all(isinstance(number, (int, float)) for number in numbers) and ":" not in key:
                found.add(key)
            if key in RANGES or key in LISTS:
                check_setting(key, None if str(value).startswith("$") else value)
    assert found <= RANGES.keys() | LISTS.keys()
    assert {*COUNTS, *FROM_0, *SWITCHES, *SPANS, *OBJECTS, "fold", "checkpoint_policy"} == set(RANGES)


@pytest.mark.parametrize(("keys", "least"), [(COUNTS, 1), (FROM_0, 0), (("fold",), -1)])
def test_whole_numbers(keys, least):
    for key in keys:
        for value in (least, least + 1, np.int64(least + 5)):
            check_setting(key, value)
        for value in (least - 1, 2**63, True, False, 1.5, float("nan"), "1", [1], {}):
            refused(key, value)


@given(st.sampled_from(sorted(SPANS)), st.floats(allow_nan=True, allow_infinity=True))
def test_numbers(key, value):
    low, high = SPANS[key]
    if low <= value <= high:
        check_setting(key, value)
    elif key != "checkpoint_seconds" or not 0 <= value < float("inf"):
        refused(key, value)


def test_ends_of_the_spans():
    check_setting("learning_rate", 10)
    refused("learning_rate", 10.001)
    refused("presegmentation_weight", 1.0)
    for key, highest in HIGHEST.items():
        check_setting(key, highest)
        refused(key, highest + 1)
    for key in ("start_step", "end_step"):
        check_setting(key, None)
    refused("num_steps", None)


@pytest.mark.parametrize("key", SWITCHES)
def test_switches(key):
    check_setting(key, True)
    for value in (0, 1, "yes", "False", None):
        assert f"write --{key} True" in refused(key, value)


@pytest.mark.parametrize("key", OBJECTS)
def test_objects(key):
    check_setting(key, {})
    for value in (0, True, "x", [], [1], 1.5):
        refused(key, value)


@given(st.dictionaries(st.sampled_from(["0", "1", "2", "a", "-1", "1.0", 0, 1]), st.sampled_from(["x", True, None, 1])))
def test_labels_are_names_by_number(labels):
    if [*map(str, sorted(labels, key=str))] == [*map(str, range(len(labels)))] and {*labels.values()} <= {"x"}:
        check_setting("labels", labels)
    else:
        refused("labels", labels)


def test_lists_of_any_length():
    for key in ("label_values", "trained_solver_steps"):
        check_setting(key, [0, 4])
        for value in ([], 0, "12", [-1], [1.0], [True], {0: 1}):
            refused(key, value)
    check_setting("train_list_keys", ["training", "validation"])
    for value in ([], "training", [1], True, ["train"], ["training", "training"]):
        refused("train_list_keys", value)
    refused("label_values", [0, 1, 1])


@pytest.mark.parametrize("key", sorted(PER_AXIS))
@pytest.mark.parametrize("value", [[1, 1], [1, 1, 1, 1], [], 1, "1,1", "111", False, {"0": 1}])
def test_lists_have_one_number_for_each_axis(key, value):
    assert f"expected a list of 3, one per axis; fix --{key}" in refused(key, value)
    check_setting(key, [1, 1], spatial_dims=2)


@pytest.mark.parametrize("number", [0, -1, True, "1", None, float("nan"), float("inf")])
def test_numbers_of_each_axis(number):
    for key in PER_AXIS:
        refused(key, [1, 1, number])
    refused("roi_size", [8, 8, 8.0])
    check_setting("spacing", [0.5, 1, 2.5])


def test_other_keys_are_ignored():
    check_setting("device", -1)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"batch_size": 0}, "batch_size: found 0, expected a whole number of at least 1; give batch_size such a value"),
        ({"batch_size": "$@num_steps - 5"}, "batch_size: found 0, expected a whole number"),
        ({"spacing": [1.0, 1.0]}, "spacing: found [1.0, 1.0], expected a list of 3"),
        ({"spacing": [1.0, 1.0, 1.0], "scan#spatial_dims": 2}, "spacing: found [1.0, 1.0, 1.0], expected a list of 2"),
    ],
)
def test_they_are_checked_first(tmp_path, given, line):
    config = {
        "scan": {"_target_": "monai_pdddpm.data.ScanSpec", "spatial_dims": 3},
        "num_steps": 5,
        "batch_size": 4,
        "spacing": [1.0, 1.0, 1.0],
        "initialize": ["$__import__('monai_pdddpm.bundle').bundle.start_run('cpu')"],
        "run": ["$print(@batch_size, @spacing)"],
    }
    (tmp_path / "run.json").write_text(json.dumps(config))
    workflow = ConfigWorkflow(f"{tmp_path}/run.json", logging_file=False, **given)
    with pytest.raises(Exception) as caught:  # noqa: PT011, MONAI wraps it
        workflow.initialize()
    assert user_message(caught.value).startswith(line)


def test_scans_may_keep_their_spacing():
    check_setting("spacing", None)
