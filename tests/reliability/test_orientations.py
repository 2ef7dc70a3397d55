"""A scan stored in each of the 48 orientations has the same result in world coordinates."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from scipy.ndimage import center_of_mass

from monai_pdddpm.data.phantom_distribution import make_phantom_scan, phantom_affine
from monai_pdddpm.inferers import pdddpm

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"
SPACING = (1.5, 1.5, 1.5)
PHANTOM = make_phantom_scan((20, 18, 16), SPACING, seed=11)
# nibabel's orientations: for each axis of one grid the axis of the other, and its direction
ORIENTATIONS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def code(orientation):
    return "".join(nib.orientations.ornt2axcodes(orientation))


@pytest.fixture(scope="module", params=["axis-aligned", "oblique"])
def results(request, tmp_path_factory):
    """Segmentation and probabilities of each orientation, reoriented to the first."""
    data, output = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("results")
    affine = phantom_affine(SPACING) if request.param == "oblique" else np.diag([*SPACING, 1.0])
    scan = nib.Nifti1Image(PHANTOM.image.astype(np.float32), affine)
    for number, orientation in enumerate(ORIENTATIONS):
        nib.save(scan.as_reoriented(orientation), data / f"scan{number:02}.nii.gz")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.read_meta(BUNDLE / "configs" / "metadata.json")
    options = {"bundle_root": str(BUNDLE), "device": "cpu", "precision": "float32", "members": 4, "num_steps": 1}
    small = {"roi_size": [32, 32, 24], "inferer::return_members": False, "handlers": []}
    parser.update({"dataset_dir": str(data), "output_dir": str(output), **options, **small})
    with pytest.MonkeyPatch.context() as patch:  # the noise depends on the case's name
        patch.setattr(pdddpm, "_case_names", lambda inputs: ["scan"] * len(inputs))
        parser.get_parsed_content("evaluator").run()

    def read(number, what):
        written = nib.load(output / f"scan{number:02}" / f"scan{number:02}_{what}.nii.gz")
        assert np.allclose(written.affine, nib.load(data / f"scan{number:02}.nii.gz").affine, atol=1e-5)
        orientation = nib.io_orientation(np.linalg.solve(affine, written.affine))
        return written.as_reoriented(orientation)

    return [(read(number, "seg"), read(number, "prob")) for number in range(len(ORIENTATIONS))]


def test_there_are_48_orientations():
    assert len({code(one) for one in ORIENTATIONS}) == 48


def test_segmentation_lies_on_the_phantom_and_is_asymmetric(results):
    seg = np.asarray(results[0][0].dataobj)
    truth = PHANTOM.probability.argmax(axis=0)
    for label in (1, 2):
        assert np.abs(np.subtract(center_of_mass(seg >= label), center_of_mass(truth >= label))).max() < 1  # voxel
    for axis in range(3):
        assert (np.flip(seg, axis) != seg).sum() > 0.2 * (seg > 0).sum()


def test_all_results_agree_in_world_coordinates(results):
    first_seg, first_prob = results[0]
    for orientation, (seg, prob) in zip(ORIENTATIONS, results, strict=True):
        assert np.allclose(seg.affine, first_seg.affine, atol=1e-4), code(orientation)
        assert np.abs(np.asarray(prob.dataobj) - np.asarray(first_prob.dataobj)).max() < 1e-4, code(orientation)
        assert (np.asarray(seg.dataobj) != np.asarray(first_seg.dataobj)).mean() < 1e-3, code(orientation)
