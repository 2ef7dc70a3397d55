"""Pre-segmentations of other programs: found by name, and read onto the grid and the labels of their scan."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from monai_pdddpm.data.presegmentations import find_presegmentation, read_presegmentation
from monai_pdddpm.utils.errors import UserError

SHAPE = (6, 5, 4)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 1.5, 3], [0, -1, 0, 8], [0, 0, 0, 1]])  # neither RAS nor LPS
LABELS = {0: "background", 1: "left lung", 4: "liver"}


def classes():
    """A map with every class, without any symmetry."""
    found = np.zeros(SHAPE, np.uint8)
    found[1:3, 1:, :2] = 1
    found[4, 2:4, 1:] = 2
    return found


def probabilities():
    """Probabilities with these likeliest classes, (K, X, Y, Z)."""
    p = np.random.default_rng(0).uniform(0.0, 0.3, (3, *SHAPE))
    np.put_along_axis(p, classes()[None].astype(int), 1.0, axis=0)
    return (p / p.sum(axis=0)).astype(np.float32)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def as_values(index=None):
    return np.array([0, 1, 4], np.uint8)[classes() if index is None else index]


def read(path):
    return read_presegmentation(path, SHAPE, AFFINE, LABELS)


class TestFind:
    @pytest.mark.parametrize(
        "file",
        ["a.npz", "a.nii.gz", "a.mha", "a/a_prob.nii.gz", "a/liver.nii.gz", "fold_3/validation/a.npz"],
    )
    def test_each_form(self, tmp_path, file):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
        (tmp_path / "aa.nii.gz").write_bytes(b"")
        expected = tmp_path / "a" if file == "a/liver.nii.gz" else tmp_path / file
        assert find_presegmentation(tmp_path, "a") == expected
        assert find_presegmentation(tmp_path, "a_0000") == expected

    def test_probabilities_before_the_label_map_and_the_full_name_before_the_short_one(self, tmp_path):
        for file in ("a.npz", "a.nii.gz", "a_0000.nii.gz"):
            (tmp_path / file).write_bytes(b"")
        assert find_presegmentation(tmp_path, "a").name == "a.npz"
        assert find_presegmentation(tmp_path, "a_0000").name == "a_0000.nii.gz"

    def test_none_no_folder_and_two(self, tmp_path):
        with pytest.raises(UserError, match=r": found no pre-segmentation of a, expected a\.npz"):
            find_presegmentation(tmp_path, "a")
        with pytest.raises(UserError, match=r"presegmentation_dir: found no folder"):
            find_presegmentation(tmp_path / "b", "a")
        for fold in range(2):
            save(tmp_path / f"fold_{fold}" / "validation" / "a.nii.gz", classes())
        with pytest.raises(UserError, match=r"fold_0.* found .*fold_1.* beside it, expected one"):
            find_presegmentation(tmp_path, "a")


class TestRead:
    def test_label_map(self, tmp_path):
        found, soft = read(save(tmp_path / "a.nii.gz", as_values()))
        assert not soft
        assert torch.equal(found[0], torch.as_tensor(classes()).long())

    def test_probabilities(self, tmp_path):
        found, soft = read(save(tmp_path / "a.nii.gz", np.moveaxis(probabilities(), 0, -1)))
        assert soft
        assert np.allclose(found, probabilities(), atol=1e-6)

    def test_probability_of_one_structure(self, tmp_path):
        p = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
        found, soft = read_presegmentation(save(tmp_path / "a.nii.gz", p), SHAPE, AFFINE, {0: "none", 1: "cord"})
        assert soft
        assert np.allclose(found, [1 - p, p])

    def test_label_map_with_noise_is_no_probability(self, tmp_path):
        noisy = (classes() == 1) + np.random.default_rng(0).uniform(-1e-4, 1e-4, SHAPE).astype(np.float32)
        found, soft = read_presegmentation(save(tmp_path / "a.nii.gz", noisy), SHAPE, AFFINE, {0: "none", 1: "cord"})
        assert not soft
        assert torch.equal(found[0], torch.as_tensor(classes() == 1).long())

    @pytest.mark.parametrize("canonical", [False, True])
    def test_nnunet_axes(self, tmp_path, canonical):
        array = probabilities()
        if canonical:  # as nnU-Net's NibabelIOWithReorient turns a scan
            turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt("RAS"))
            array = np.stack([nib.orientations.apply_orientation(channel, turn) for channel in array])
        np.savez_compressed(tmp_path / "a.npz", probabilities=array.transpose(0, 3, 2, 1))
        save(tmp_path / "a.nii.gz", as_values())
        found, soft = read(tmp_path / "a.npz")
        assert soft
        assert np.allclose(found, probabilities(), atol=1e-6)

    def test_nnunet_without_its_label_map(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", probabilities=probabilities().transpose(0, 3, 2, 1))
        assert np.allclose(read(tmp_path / "a.npz")[0], probabilities(), atol=1e-6)

    def test_masks(self, tmp_path):
        save(tmp_path / "a" / "LIVER.nii.gz", (classes() == 2).astype(np.uint8))
        save(tmp_path / "a" / "left_lung.nii.gz", (classes() == 1).astype(np.float32))
        save(tmp_path / "a" / "spleen.nii.gz", np.ones(SHAPE, np.uint8))
        found, soft = read(tmp_path / "a")
        assert not soft
        assert torch.equal(found[0], torch.as_tensor(classes()).long())


class TestMistakes:
    """Each is one line that names the file."""

    def refused(self, path, match):
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert str(path.name) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_other_grid(self, tmp_path):
        moved = AFFINE.copy()
        moved[0, 3] += 2
        self.refused(save(tmp_path / "a.nii.gz", as_values(), moved), "labels 2 voxels away from their scan")
        self.refused(save(tmp_path / "b.nii.gz", np.moveaxis(probabilities(), 0, -1), moved), "voxels away")
        self.refused(save(tmp_path / "c.nii.gz", as_values()[:-1]), "5 x 5 x 4 voxels, expected the 6 x 5 x 4")
        save(tmp_path / "d" / "left lung.nii.gz", (classes() == 1).astype(np.uint8), moved)
        with pytest.raises(UserError, match=r"left lung\.nii\.gz: .*voxels away"):
            read(tmp_path / "d")

    def test_other_labels(self, tmp_path):
        self.refused(save(tmp_path / "a.nii.gz", classes()), "label values 2, expected none but 0, 1, 4")
        four = np.full((*SHAPE, 4), 0.25, np.float32)
        self.refused(save(tmp_path / "b.nii.gz", four), "4 channels, expected 3")
        np.savez_compressed(tmp_path / "c.npz", probabilities=np.moveaxis(four, -1, 0).transpose(0, 3, 2, 1))
        self.refused(tmp_path / "c.npz", "4 channels, expected 3")
        save(tmp_path / "d" / "liver.nii.gz", (classes() == 2).astype(np.uint8))
        self.refused(tmp_path / "d", "no mask of 'left lung'")
        save(tmp_path / "d" / "left lung.nii.gz", np.ones(SHAPE, np.uint8))
        with pytest.raises(UserError, match=r"found 6 voxels that belong to 'left lung' too"):
            read(tmp_path / "d")

    def test_sums(self, tmp_path):
        doubled = 2 * probabilities()
        self.refused(save(tmp_path / "a.nii.gz", np.moveaxis(doubled, 0, -1)), "sum over the labels is 2 to 2")
        np.savez_compressed(tmp_path / "b.npz", probabilities=doubled.transpose(0, 3, 2, 1))
        self.refused(tmp_path / "b.npz", "not logits or regions")
        p = probabilities()
        p[0, 0, 0, 0] = np.nan
        self.refused(save(tmp_path / "c.nii.gz", np.moveaxis(p, 0, -1)), "sum over the labels")

    def test_nnunet_files_of_two_predictions(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", probabilities=probabilities().transpose(0, 3, 2, 1))
        save(tmp_path / "a.nii.gz", as_values(classes()[::-1]))
        self.refused(tmp_path / "a.npz", r"not those of a\.nii\.gz")

    def test_damaged_version_1_and_pickled_archives(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"PK damaged")
        self.refused(tmp_path / "a.npz", "cannot be read")
        np.savez_compressed(tmp_path / "b.npz", softmax=probabilities())
        self.refused(tmp_path / "b.npz", "found softmax, expected 4D probabilities of nnU-Net version 2")
        np.savez_compressed(tmp_path / "c.npz", probabilities=np.array([{"run": "me"}], dtype=object))
        self.refused(tmp_path / "c.npz", "cannot be read")
