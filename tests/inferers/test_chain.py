"""The reverse chain is the formula written out, whatever the batch."""

import time

import pytest
import torch
from torch import nn

from monai_pdddpm.inferers.device_memory import reverse_chain
from monai_pdddpm.inferers.run_info import Stopwatch
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import AncestralRule, Chain, DDIMRule

STEPS = [799, 400, 90]


class Denoiser(nn.Module):
    """Logits that depend on the state, the time and the condition; remembers its calls."""

    num_classes = 2
    divisor = 1

    def __init__(self):
        super().__init__()
        self.calls = []

    def encode(self, image, presegmentation):
        return [image, presegmentation]

    def denoise(self, x_t, t, features, solver, solver_steps):
        self.calls.append((int(t), solver, solver_steps))
        return logits(x_t, float(t), features)


def logits(x_t, t, features):
    return (1 - t / 1000) * x_t + features[0] + 0.3 * features[1]


@pytest.fixture
def network():
    return PDDDPM(nn.Identity(), Denoiser(), time_steps=STEPS)


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, 6, 5, generator=generator)
    presegmentation = torch.zeros(1, 2, 6, 5)
    presegmentation[:, 0, :3], presegmentation[:, 1, 3:] = 1, 1
    return image, presegmentation, [torch.randn(4, 2, 6, 5, generator=generator) for _ in STEPS]


def run(network, given, rule=None, process="ddpm", steps=STEPS, members=slice(None), **options):
    image, presegmentation, noise = given
    rule = rule or DDIMRule()
    options = {"solver_steps": [0] * len(steps)} | options
    chain = Chain(steps, eta=rule.eta, large_variance=rule.large_variance, **options)
    network.residual = process == "residual"
    noise = [field[members] for field in noise[: chain.draws]]
    features = network.encode(image, presegmentation)
    return reverse_chain(network, presegmentation, features, noise, chain)[1]


def by_hand(network, given, process, eta, steps):
    """DDIM's eq. 12 in float64; the residual process is the same chain on x - R."""
    image, presegmentation, noise = (x.double() if torch.is_tensor(x) else [f.double() for f in x] for x in given)
    abar = network.abar.double()
    x_pre = presegmentation * 2 - 1
    features = [image, x_pre]  # the encoder is shown the state
    x = abar[steps[0]].sqrt() * x_pre + (1 - abar[steps[0]]).sqrt() * noise[0]
    for i, t in enumerate(steps):
        x_0 = logits(x, t, features).softmax(1) * 2 - 1
        if i + 1 == len(steps):
            return (x_0 + 1) / 2
        a, b = abar[t], abar[steps[i + 1]]
        shift = x_pre - x_0 if process == "residual" else 0
        y, y_0 = x - shift, x_0 - shift
        eps = (y - a.sqrt() * y_0) / (1 - a).sqrt()
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        x = b.sqrt() * y_0 + (1 - b - sigma**2).sqrt() * eps + sigma * noise[i + 1] + shift


@pytest.mark.parametrize("process", ["ddpm", "residual"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [STEPS, [799, 90]])
def test_chain_by_hand(network, given, process, eta, steps):
    found = run(network, given, DDIMRule(eta), process, steps)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), by_hand(network, given, process, eta, steps), atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(()))


def test_each_time_may_have_its_own_solver_steps(network, given):
    counts = [n % 3 + 1 for n in range(len(STEPS))]
    run(network, given, solver="rk4", solver_steps=counts)
    assert network.denoiser.calls == [(t, "rk4", n) for t, n in zip(STEPS, counts, strict=True)]


@pytest.mark.parametrize("rule", [DDIMRule(), DDIMRule(1.0), AncestralRule("fixed_large")])
def test_members_of_a_batch_do_not_see_each_other(network, given, rule):
    together = run(network, given, rule)
    for i in range(4):
        assert torch.equal(run(network, given, rule, members=slice(i, i + 1)), together[i : i + 1])


@pytest.mark.parametrize("members", [2, 3, 4])
def test_half_of_the_members_with_their_own_features_when_memory_is_short(network, given, members, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("there is no GPU"))
    _, presegmentation, noise = given
    images = torch.randn(members, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    own, shared = network.encode(images, presegmentation.expand(members, 2, 6, 5)), presegmentation
    chain, fields = Chain(STEPS, [0, 0, 0]), [noise[0][:members]]
    expected = reverse_chain(network, shared, own, fields, chain)
    assert not torch.allclose(*expected, atol=1e-2)
    denoise = network.denoiser.denoise

    def small(x_t, *others):
        if len(x_t) > 1:
            raise torch.OutOfMemoryError
        return denoise(x_t, *others)

    network.denoiser.denoise = small
    for found, wanted in zip(reverse_chain(network, shared, own, fields, chain), expected, strict=True):
        assert torch.equal(found, wanted)
    assert f"out of memory on cpu with {members} members at once" in caplog.text


def test_seconds_are_summed_by_stage(monkeypatch):
    timer = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with timer("sleep"):
            time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), timer("fail"):
        raise ZeroDivisionError
    assert set(timer.seconds) == {"sleep", "fail"}
    assert 0.02 <= timer.seconds["sleep"] < 2
    assert timer.seconds["fail"] >= 0
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with Stopwatch(torch.device("cuda"))("on a GPU"):
        assert waited == [torch.device("cuda")]
    assert waited == 2 * [torch.device("cuda")]
