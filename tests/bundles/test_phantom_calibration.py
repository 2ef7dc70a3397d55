"""The phantom's true probabilities are known: do the ensemble's come closer to them than the segmenter's?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.data.phantom import make_phantom_scan, phantom_affine
from monai_pdddpm.metrics.calibration import near_structure

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "bundles" / "phantom_segmentation" / "models" / "model.pt"
SEEDS = (70001, 70002, 70003)  # of no training case
MEMBERS = 16
BINS = 10


def calibration_error(predicted, true):
    """Mean over classes of sum_b n_b / n |mean predicted - mean true| over bins of the predicted probability."""
    errors = []
    for p, q in zip(predicted, true, strict=True):
        index = np.minimum((p * BINS).astype(int), BINS - 1)
        gap = np.bincount(index, weights=p - q, minlength=BINS)
        errors.append(np.abs(gap).sum() / len(p))
    return float(np.mean(errors))


@pytest.fixture(scope="module")
def measured(read_inference):
    """Calibration error and mean absolute error of both, near the structure, over all scans."""
    bundle = MODEL.parents[1]
    parser = read_inference(bundle, members=MEMBERS)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(MODEL, weights_only=True)["model"])
    inferer = parser.get_parsed_content("inferer")
    normalise = parser.get_parsed_content("preprocessing").transforms[-1]
    predicted, true = {"ensemble": [], "segmenter": []}, []
    for seed in SEEDS:
        scan = make_phantom_scan(seed=seed)
        image = MetaTensor(torch.from_numpy(scan.image)[None], affine=torch.from_numpy(phantom_affine()))
        output = inferer(normalise({"image": image})["image"][None], network.eval())[0].numpy()
        near = near_structure(torch.from_numpy(scan.probability[1:].sum(0) > 0.5)).numpy()
        true.append(scan.probability[:, near])
        predicted["ensemble"].append(output[:3][:, near])
        predicted["segmenter"].append(output[6:9][:, near])
    true = np.concatenate(true, axis=1)
    found = {}
    for method, parts in predicted.items():
        p = np.concatenate(parts, axis=1)
        found[method] = {
            "calibration error": calibration_error(p, true),
            "mean absolute error": float(np.abs(p - true).mean()),
        }
        print(method, {name: round(value, 4) for name, value in found[method].items()})
    return found


@pytest.mark.parametrize(("name", "bound"), [("calibration error", 0.05), ("mean absolute error", 0.07)])
def test_ensemble_is_closer_to_the_true_probabilities_than_the_segmenter(measured, name, bound):
    assert measured["ensemble"][name] < bound
    assert measured["ensemble"][name] < measured["segmenter"][name]
