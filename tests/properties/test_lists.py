"""Any list of cases: entries are read as they are written, or refused in a line that names the list and the entry."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.data import case_name, inference_cases, labelled_cases
from monai_pdddpm.data.datalist import unused_files
from monai_pdddpm.utils.errors import UserError

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False), st.text(max_size=4))
PATHS = st.sampled_from(["a.nii.gz", "b.nii.gz", "../c.nii.gz", "/etc/d.nii", "", "~/e.nii", "\0"])
IMAGES = st.one_of(SCALARS, PATHS, st.lists(st.one_of(st.none(), PATHS, SCALARS), max_size=3))
ENTRIES = st.one_of(
    IMAGES,
    st.dictionaries(st.sampled_from(["image", "label", "fold", "mask"]), IMAGES, max_size=3),
)
LISTS = st.one_of(SCALARS, st.lists(ENTRIES, max_size=4), st.dictionaries(st.text(max_size=2), ENTRIES, max_size=2))
CONTENT = st.dictionaries(
    st.sampled_from(["training", "validation", "test", "testing", "Training", "val", "modality", "labels", "root"]),
    LISTS,
    max_size=4,
)


@given(CONTENT)
def test_any_json_is_read_or_refused_in_a_line(content):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("a.nii.gz", "b.nii.gz"):
            (folder / file).write_bytes(b"x")
        (folder / "dataset.json").write_text(json.dumps(content))
        readers = (
            lambda: inference_cases(folder),
            lambda: labelled_cases(folder, "training"),
            lambda: read_dataset(folder),
        )
        for read in readers:
            try:
                found = read()
            except UserError as error:
                found = str(error)
            if isinstance(found, str):
                assert "\n" not in found
                assert found.startswith(name)
            elif isinstance(found, list):
                unused_files(folder, found)
                for case in found:
                    files = case["image"] if isinstance(case["image"], list) else [case["image"]]
                    assert all(Path(file).parent == folder for file in files if file)


NAMES = st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters="_ .-,#%"), min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, st.sampled_from([".nii", ".nii.gz", ".nrrd", ".txt", ""])), min_size=1, max_size=6))
def test_each_file_of_a_folder_is_a_case_or_named_as_unused(entries):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, ending in entries:
            (folder / f"x{stem}{ending}").write_bytes(b"x")
        present = {file.name for file in folder.iterdir()}
        try:
            cases = inference_cases(folder, channels=2)
        except UserError as error:
            cases = str(error)
        if isinstance(cases, str):
            assert "both have the name" in cases or "no scan found" in cases
            return
        used = {
            Path(file).name
            for case in cases
            for file in (case["image"] if isinstance(case["image"], list) else [case["image"]])
            if file
        }
        assert used | set(unused_files(folder, cases)) == present
        assert used.isdisjoint(unused_files(folder, cases))
        assert len({case_name(case["image"]).casefold() for case in cases}) == len(cases)


def test_the_folder_of_nothing(tmp_path):
    with pytest.raises(UserError, match="no scan found"):
        inference_cases(tmp_path)
