"""Short types stay inside the network: what comes out is float32, on the CPU too."""

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from monai_pdddpm.inferers import AutocastInferer
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.utils.errors import UserError


class Watching(torch.nn.Conv2d):
    """A convolution that remembers the type it computed in."""

    def forward(self, x):
        y = super().forward(x)
        self.seen = y.dtype
        return y


@pytest.mark.parametrize(("precision", "inside"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_network_computes_short_and_the_result_is_float32(precision, inside):
    network = Watching(1, 2, 1)
    output = AutocastInferer(precision)(torch.rand(1, 1, 4, 4), network)
    assert network.seen == inside
    assert output.dtype == torch.float32


def test_metadata_and_gradient_survive():
    network = Watching(1, 2, 1)
    output = AutocastInferer()(MetaTensor(torch.rand(1, 1, 4, 4), meta={"a": 1}), network)
    assert output.meta["a"] == 1
    output.sum().backward()
    assert network.weight.grad.abs().sum() > 0


def test_wrapped_inferer_gets_the_arguments():
    class Scaled(Inferer):
        def __call__(self, inputs, network, by, shift=0):
            return network(inputs) * by + shift

    assert AutocastInferer("float32", Scaled())(torch.ones(2), torch.nn.Identity(), 3, shift=1).tolist() == [4, 4]


@pytest.mark.parametrize("precision", ["bf16", "float64", "", 16])
def test_unknown_precision_is_refused_at_once(precision):
    with pytest.raises(
        UserError, match=r"precision: found .* expected 'float32' or 'bfloat16' or 'float16'; give precision"
    ):
        AutocastInferer(precision)


def test_float16_needs_a_gpu():
    with pytest.raises(UserError, match="precision: found 'float16' on a CPU"):
        autocast(torch.device("cpu"), "float16")
