"""The likeliest class, by hand and against argmax."""

import pytest
import torch

from monai_pdddpm.utils.probabilities import likeliest_class


def test_by_hand():
    p = torch.tensor([[0.2, 0.5, 0.4], [0.7, 0.5, 0.2], [0.1, 0.0, 0.4]])
    assert likeliest_class(p, dim=0).tolist() == [1, 0, 0]  # of equal ones the first
    assert likeliest_class(p, dim=1).tolist() == [1, 0, 2]
    assert likeliest_class(torch.tensor([[0.9], [float("nan")], [0.5]]), dim=0).tolist() == [1]


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_is_argmax(dim, keepdim):
    values = torch.randint(0, 3, (4, 5, 6, 7), generator=torch.Generator().manual_seed(0)).float()  # with many ties
    found = likeliest_class(values, dim, keepdim)
    assert found.dtype == torch.int64
    assert torch.equal(found, values.argmax(dim, keepdim))
