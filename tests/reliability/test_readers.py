"""Results have one position for nibabel, SimpleITK and MONAI."""

import numpy as np
import pytest
import readers


def errors(cells):
    return [cell for cell in cells.values() if cell != readers.REFUSED]


def test_orientations_are_48_and_half_of_them_left_handed():
    affines = [readers.affine_of(one, "oblique") for one in readers.ORIENTATIONS]
    assert len({affine.tobytes() for affine in affines}) == 48
    assert sum(np.linalg.det(affine) < 0 for affine in affines) == 24


def test_an_error_would_be_seen(tmp_path):
    # the same voxels, and an axis that leans by a micrometer for each of its 5 voxels
    affine = readers.affine_of(readers.ORIENTATIONS[5], "axis-aligned")
    readers.write_scan(tmp_path / "a.nii.gz", affine, ".nii.gz mm")
    for reader in readers.READERS:
        assert readers.error_of(tmp_path / "a.nii.gz", reader, affine) < 1e-4
        turned = affine.copy()
        turned[2, 0] += 0.9 * np.radians(0.01)
        assert readers.error_of(tmp_path / "a.nii.gz", reader, turned) == pytest.approx(
            4 * 0.9 * np.radians(0.01), rel=0.1
        )


def test_a_left_handed_and_a_right_handed_orientation(monkeypatch):
    monkeypatch.setattr(readers, "GRIDS", ("oblique", "sheared"))
    cells = readers.matrix([5, 40])
    assert max(errors(cells)) < readers.LIMIT
    refused = {key[0] for key, cell in cells.items() if cell == readers.REFUSED}
    assert refused == {".nii.gz mm", ".nii.gz no unit", ".nii.gz micrometer"}  # sheared for SimpleITK, or a wrong unit


@pytest.mark.slow
def test_all_orientations_and_the_page():
    cells = readers.matrix()
    assert max(errors(cells)) < readers.LIMIT
    assert readers.as_page(cells) == readers.PAGE.read_text(encoding="utf-8")
