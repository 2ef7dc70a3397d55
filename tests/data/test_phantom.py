"""The phantom's files: what they hold, and when they are written."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data import phantom as module
from monai_pdddpm.data.phantom import ensure_phantom, write_phantom
from monai_pdddpm.data.phantom_distribution import phantom_affine
from monai_pdddpm.utils.errors import UserError

TINY = {"size": (12, 14, 10), "spacing": (3.0, 3.0, 3.5)}
FEW = {"train": 2, "validation": 1, "test": 1, "annotations": 3, **TINY}


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "data", **FEW)


def test_written_files(dataset):
    cases = {"Tr": ["phantom_000", "phantom_001", "phantom_002"], "Ts": ["phantom_003"]}
    expected = {f"{kind}{s}": cases[s] for kind in ("images", "labels", "annotations", "probability") for s in cases}
    found = {
        folder.name: sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir())
        for folder in dataset.iterdir()
        if folder.is_dir()
    }
    assert found == expected
    kinds = {"images": ((), "float32"), "labels": ((), "uint8"), "annotations": ((3,), "uint8")}
    kinds |= {"probability": ((3,), "float32")}
    for folder in found:
        extra, dtype = kinds[folder.removesuffix("Tr").removesuffix("Ts")]
        for path in (dataset / folder).iterdir():
            image = nib.load(path)
            assert image.shape == (*TINY["size"], *extra)
            assert image.get_data_dtype() == dtype
            assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
            for affine in (image.affine, image.get_sform(), image.get_qform()):
                assert affine == pytest.approx(phantom_affine(TINY["spacing"]), abs=1e-4)
            assert image.header.get_zooms()[:3] == pytest.approx(TINY["spacing"])
            assert image.header.get_xyzt_units() == ("mm", "unknown")


def test_label_is_the_first_reading_and_follows_the_probability(dataset):
    for split, name in [("Tr", "phantom_000"), ("Ts", "phantom_003")]:
        label, annotations, probability = (
            np.asanyarray(nib.load(dataset / f"{kind}{split}" / f"{name}.nii.gz").dataobj)
            for kind in ("labels", "annotations", "probability")
        )
        assert np.array_equal(label, annotations[..., 0])
        assert not np.array_equal(annotations[..., 0], annotations[..., 1])
        assert probability.sum(-1) == pytest.approx(np.ones(label.shape), abs=1e-6)
        drawn = np.take_along_axis(probability[..., None], annotations[:, :, :, None].astype(int), axis=3)
        assert drawn.min() > 1e-6  # nothing impossible was drawn


def test_dataset_json_lists_files_that_exist(dataset):
    contents = json.loads((dataset / "dataset.json").read_text())
    assert contents["labels"] == {"0": "background", "1": "body", "2": "core"}
    assert contents["modality"] == {"0": "synthetic"}
    assert [len(contents[key]) for key in ("training", "validation", "test")] == [2, 1, 1]
    assert [contents[f"num{key}"] for key in ("Training", "Validation", "Test")] == [2, 1, 1]
    entries = [e for key in ("training", "validation", "test") for e in contents[key]]
    assert len({e["image"] for e in entries}) == 4
    for entry in entries:
        assert set(entry) == {"image", "label"}
        assert all((dataset / path).is_file() for path in entry.values())
    assert contents["generator"]["seed"] == 0
    assert contents["generator"]["size"] == list(TINY["size"])


def test_same_seed_same_files(dataset, tmp_path):
    first = digests(dataset)
    assert digests(write_phantom(tmp_path / "again", **FEW)) == first
    other = digests(write_phantom(tmp_path / "other", **FEW, seed=1))
    assert all(other[name] != digest for name, digest in first.items())
    # a case does not depend on how many there are
    more = digests(write_phantom(tmp_path / "more", **FEW | {"train": 4}))
    assert more["imagesTr/phantom_001.nii.gz"] == first["imagesTr/phantom_001.nii.gz"]


@pytest.mark.parametrize(("error", "raised"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError, UserError)])
def test_nothing_is_left_behind_when_interrupted(tmp_path, monkeypatch, error, raised):
    save, calls = nib.save, []

    def failing(image, path):
        calls.append(path)
        if len(calls) == 6:
            raise error(28, "stop")
        save(image, path)

    monkeypatch.setattr(module.nib, "save", failing)
    with pytest.raises(raised, match="stop"):
        ensure_phantom(tmp_path / "data", tmp_path / "data", **FEW)
    assert len(calls) == 6
    assert list(tmp_path.iterdir()) == []


def test_refuses_what_exists(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_phantom(tmp_path / "there", **FEW)


def test_ensure_phantom_writes_once_and_leaves_what_exists_alone(tmp_path, capsys):
    path = tmp_path / "deep" / "data"
    ensure_phantom(path, tmp_path / "deep" / ".." / "deep" / "data", **FEW)
    assert capsys.readouterr().out.count("\n") == 1
    (path / "mine.txt").write_text("kept")
    before = digests(path)
    ensure_phantom(str(path), path, seed=7)
    assert digests(path) == before
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    ensure_phantom(link, link)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "deep", link]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("asked", ["scan.nii.gz", "dta", "data2/../dat", "data/imagesTs"])
def test_ensure_phantom_serves_the_bundles_own_folder_alone(tmp_path, asked):
    ensure_phantom(tmp_path / "data", tmp_path / asked, **FEW)
    assert list(tmp_path.iterdir()) == []


def test_ensure_phantom_yields_to_a_faster_process(tmp_path, monkeypatch):
    save = nib.save

    def overtaken(image, path):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "dataset.json").write_text("of the other process")
        save(image, path)

    monkeypatch.setattr(module.nib, "save", overtaken)
    ensure_phantom(tmp_path / "data", tmp_path / "data", **FEW)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "dataset.json"]
