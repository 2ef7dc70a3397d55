"""Extra inputs reach the inferer if the batch has them."""

import torch

from monai_pdddpm.engines import PrepareCase


def test_keys_that_a_batch_lacks_are_left_out():
    prepare = PrepareCase({"given": "presegmentation", "seeds": "seed"})
    batch = {"image": torch.zeros(1), "label": torch.ones(1), "presegmentation": torch.full((1,), 2.0)}
    image, label, positional, named = prepare(batch, torch.device("cpu"))
    assert (image, label, positional, named) == (0, 1, (), {"given": 2})
    assert prepare({"image": torch.zeros(1)}, torch.device("cpu"))[3] == {}
