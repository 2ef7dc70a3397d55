"""Statistics of probabilities from files, against NumPy."""

import numpy as np
import torch
from monai.data import MetaTensor

from monai_pdddpm.inferers.file_ensemble import FileEnsembleInferer
from monai_pdddpm.inferers.output import EnsembleOutput


def test_mean_variance_entropy_and_members():
    p = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 4, 3, 2)).transpose(0, 4, 1, 2, 3)  # two members
    image = MetaTensor(torch.zeros(1, 1, 4, 3, 2), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    given = torch.as_tensor(p, dtype=torch.float32).flatten(0, 1)[None]
    inferer = FileEnsembleInferer(3, ["a", "b"])
    settings = {"members": 2, "probabilities": ["a", "b"], "time_steps": [], "presegmentation_weight": 0.0}
    assert inferer.config.as_report() == settings
    output = inferer(image, None, presegmentation=given)
    assert torch.equal(output.affine, image.affine)
    parts = EnsembleOutput(3, 2).split(output[0].as_tensor())
    expected = {"pred": p.mean(0), "member_mean": p.mean(0), "variance": p.var(0)[1:], "preseg": p[0]}
    expected |= {"member_entropy": -(p * np.log(p)).sum(1).mean(0)[None], "members": p.reshape(6, 4, 3, 2)}
    assert parts.keys() == expected.keys()
    for name, values in expected.items():
        assert np.allclose(parts[name], values, atol=1e-6), name
