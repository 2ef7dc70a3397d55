"""The exported answer equals hand calculations; tests/bundle compares it with the inferer."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.fixed_ensemble import FixedEnsemble
from monai_pdddpm.schedulers import Chain

K, SIZE = 3, (4, 6)


class Even(nn.Module):
    """A segmenter for which all classes are equally likely."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.zeros(image.shape[0], 3, image.shape[2], image.shape[3], device=image.device)


class Believer(nn.Module):
    """A denoiser that is certain of the class whose state is highest."""

    num_classes = K
    divisor = 1

    @torch.jit.export
    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        return [image]

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        return 1e6 * x_t

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def noise(members=5):
    return torch.randn(members, K, *SIZE, generator=torch.Generator().manual_seed(3))


def ensemble(members=5, time_steps=(999, 500), **options):
    # at index 999 of the cosine schedule nothing of the pre-segmentation is left: the noise alone decides
    return FixedEnsemble(PDDDPM(Even(), Believer()), noise(members), time_steps, **options).eval()


def entropy(p):
    return torch.special.entr(p).sum(1, keepdim=True)


IMAGE = torch.zeros(1, 1, *SIZE)
VOTES = F.one_hot(noise().argmax(1), K).movedim(-1, 1).float().mean(0, keepdim=True)  # the members' decisions


@pytest.mark.parametrize("scripted", [False, True])
def test_members_that_are_certain_are_counted(scripted):
    network = torch.jit.script(ensemble()) if scripted else ensemble()
    prob, uncertainty, information, variance = network(IMAGE)
    assert uncertainty.shape == information.shape == (1, 1, *SIZE)
    assert torch.allclose(prob, VOTES, atol=1e-6)  # the believer's first prediction is its last one
    assert torch.allclose(uncertainty, entropy(VOTES), atol=1e-5)
    assert torch.allclose(information, entropy(VOTES), atol=1e-5)  # the entropy of each member is 0
    assert torch.allclose(variance, (VOTES * (1 - VOTES))[:, 1:], atol=1e-6)


class Hesitant(Believer):
    """Even at the first step, certain at the others."""

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        return torch.where(t.view(-1, 1, 1, 1) == 999, torch.zeros_like(x_t), 1e6 * x_t)


@pytest.mark.parametrize("scripted", [False, True])
def test_answer_is_the_mean_of_first_predictions_and_maps_are_of_the_ends(scripted):
    network = FixedEnsemble(PDDDPM(Even(), Hesitant()), noise(), (999, 500)).eval()
    prob, uncertainty, information, variance = (torch.jit.script(network) if scripted else network)(IMAGE)
    assert torch.allclose(prob, torch.full_like(prob, 1 / K))
    assert torch.allclose(uncertainty, torch.full_like(uncertainty, math.log(K)))
    assert torch.allclose(information, entropy(VOTES), atol=1e-5)
    assert torch.allclose(variance, (VOTES * (1 - VOTES))[:, 1:], atol=1e-6)


def test_presegmentation_weight_acts_on_the_answer_alone():
    plain, (prob, uncertainty, *maps) = ensemble()(IMAGE), ensemble(presegmentation_weight=0.4)(IMAGE)
    mean = 0.6 * VOTES + 0.4 / K
    assert torch.allclose(prob, mean, atol=1e-6)
    assert torch.allclose(uncertainty, entropy(mean), atol=1e-5)
    assert all(torch.equal(found, expected) for found, expected in zip(maps, plain[2:], strict=True))


def test_temperature_changes_the_answer_and_its_entropy_alone():
    plain, warm = (
        ensemble(presegmentation_weight=0.4)(IMAGE),
        ensemble(presegmentation_weight=0.4, temperature=2.0)(IMAGE),
    )
    root = plain[0].sqrt()
    assert torch.allclose(warm[0], root / root.sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(warm[1], entropy(warm[0]), atol=1e-6)
    assert torch.equal(warm[2], plain[2])
    assert torch.equal(warm[3], plain[3])


def test_no_steps_give_the_segmenter():
    prob, uncertainty, information, variance = ensemble(time_steps=())(IMAGE)
    assert torch.allclose(prob, torch.full_like(prob, 1 / K))
    assert torch.allclose(uncertainty, torch.full_like(uncertainty, math.log(K)))
    assert information.abs().max() < 1e-6
    assert variance.abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(1, 1, 6, 4), (2, 1, *SIZE)])
def test_other_windows_are_refused(shape):
    with pytest.raises(ValueError, match="one image of the window's size"):
        ensemble()(torch.zeros(shape))


def test_weights_are_constants_of_the_export():
    network = FixedEnsemble(PDDDPM(nn.Conv2d(1, K, 1), Believer()), noise(), (999, 500))
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not network.network.denoiser.training
    assert network.solver_steps == [0, 0]  # the denoiser's own


class Reader(Believer):
    """Sees the image and not the state, so that all members are the same."""

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        return torch.cat([features[0], -features[0], 0 * features[0]], 1).expand_as(x_t)


def test_equal_members_have_no_information_in_spite_of_rounding():
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    information = FixedEnsemble(PDDDPM(Even(), Reader()), noise(7), (999,))(image)[2]
    assert 0 <= information.min() <= information.max() < 1e-6


def test_a_residual_chain_starts_from_the_presegmentation():
    pair = PDDDPM(Even(), Hesitant(), training_process="residual")
    network = FixedEnsemble(pair, noise(2), (999, 500)).eval()
    preseg = torch.full((1, K, *SIZE), 1 / K)
    chain = Chain([999, 500], [0, 0])
    condition = pair.prepare_presegmentation(preseg)
    expected = pair.reverse(condition, pair.encode(IMAGE, condition), [noise(2)], chain)
    for found, own in zip(network.members(IMAGE, preseg), expected, strict=True):
        assert torch.equal(found, own)
    pair.residual = False
    plain = pair.reverse(condition, pair.encode(IMAGE, condition), [noise(2)], chain)
    assert not torch.equal(plain[1], expected[1])
