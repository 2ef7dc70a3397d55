"""Every training sample of the phantom bundle is a new phantom."""

import numpy as np
import torch
from monai.data import MetaTensor

from monai_pdddpm.data.phantom_distribution import make_phantom_scan
from monai_pdddpm.transforms import RandPhantomd

SIZE = (16, 20, 12)


def data():
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    return {"image": MetaTensor(torch.zeros(1, *SIZE), affine=affine), "label": MetaTensor(torch.zeros(1, *SIZE))}


def test_image_and_annotation_are_those_of_the_drawn_seed():
    transform = RandPhantomd()
    transform.set_random_state(seed=3)
    found = transform(data())
    sequence = np.random.SeedSequence(int(np.random.RandomState(3).randint(2**31)))
    scan = make_phantom_scan(SIZE, seed=sequence)
    annotation = scan.draw_annotation(np.random.default_rng(sequence.spawn(1)[0]))
    assert np.array_equal(found["image"][0].numpy(), scan.image)
    assert np.array_equal(found["label"][0].numpy(), annotation)
    assert found["image"].affine[0, 0] == 2


def test_each_call_draws_another_phantom():
    transform = RandPhantomd()
    transform.set_random_state(seed=3)
    first, second = transform(data())["image"].clone(), transform(data())["image"]
    assert not torch.equal(first, second)
    transform.set_random_state(seed=3)
    assert torch.equal(transform(data())["image"], first)
