"""One scan, stored along its axes in all 48 ways, has one answer in the world: left is never right."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from scipy.ndimage import center_of_mass

from monai_pdddpm.data.phantom_distribution import make_phantom_scan, phantom_affine

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
SPACING = (1.5, 1.5, 1.5)
PHANTOM = make_phantom_scan((20, 18, 16), SPACING, seed=11)
# as nibabel has them: for each axis of the first grid the axis of the second, and its direction
WAYS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def code(way):
    return "".join(nib.orientations.ornt2axcodes(way))


@pytest.fixture(scope="module", params=["along the world's axes", "oblique"])
def answers(request, tmp_path_factory):
    """The answers, in the order of `WAYS`, turned back to the first way: segmentation, probabilities and affine."""
    data, output = tmp_path_factory.mktemp("ways"), tmp_path_factory.mktemp("answers")
    affine = phantom_affine(SPACING) if request.param == "oblique" else np.diag([*SPACING, 1.0])
    scan = nib.Nifti1Image(PHANTOM.image.astype(np.float32), affine)
    for number, way in enumerate(WAYS):
        nib.save(scan.as_reoriented(way), data / f"way{number:02}.nii.gz")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.read_meta(BUNDLE / "configs" / "metadata.json")
    options = {"bundle_root": str(BUNDLE), "device": "cpu", "precision": "float32", "members": 1, "num_steps": 1}
    small = {"roi_size": [32, 32, 24], "write_members": False, "handlers": []}
    parser.update({"dataset_dir": str(data), "output_dir": str(output), **options, **small})
    parser.get_parsed_content("evaluator").run()

    def read(number, what):
        written = nib.load(output / f"way{number:02}" / f"way{number:02}_{what}.nii.gz")
        assert np.allclose(written.affine, nib.load(data / f"way{number:02}.nii.gz").affine, atol=1e-5)
        way = nib.io_orientation(np.linalg.solve(affine, written.affine))
        return written.as_reoriented(way)

    return [(read(number, "seg"), read(number, "prob")) for number in range(len(WAYS))]


def test_all_ways_are_there():
    assert len({code(way) for way in WAYS}) == 48


def test_answer_is_where_the_phantom_is_and_has_a_side(answers):
    seg = np.asarray(answers[0][0].dataobj)
    truth = PHANTOM.probability.argmax(axis=0)
    for label in (1, 2):
        assert np.abs(np.subtract(center_of_mass(seg >= label), center_of_mass(truth >= label))).max() < 1  # voxel
    for axis in range(3):  # a mirrored answer would be another one
        assert (np.flip(seg, axis) != seg).sum() > 0.2 * (seg > 0).sum()


def test_all_answers_are_one_in_the_world(answers):
    first_seg, first_prob = answers[0]
    for way, (seg, prob) in zip(WAYS, answers, strict=True):
        assert np.allclose(seg.affine, first_seg.affine, atol=1e-4), code(way)
        assert np.abs(np.asarray(prob.dataobj) - np.asarray(first_prob.dataobj)).max() < 1e-4, code(way)
        assert (np.asarray(seg.dataobj) != np.asarray(first_seg.dataobj)).mean() < 1e-3, code(way)
