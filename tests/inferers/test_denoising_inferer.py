"""The states that the denoiser is trained on follow from the formula of each process."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import beta
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.inferers.denoising_inferer import InForward
from monai_pdddpm.networks import PDDDPM, ODEUNet
from monai_pdddpm.transforms import PresegmentationCorruption
from monai_pdddpm.utils.errors import UserError

K = 3
STEPS = [663, 620, 300, 10]
SIZE = (6, 5)
PROCESSES = ("ddpm", "presegmentation", "recycled", "residual")


class Segmenter(nn.Module):
    """Learned logits, so that a gradient could reach it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([[-1.0], [1.0], [0.3]]))
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return torch.einsum("kc,bc...->bk...", self.scale, image)


class Recorder(nn.Module):
    """A denoiser that records its inputs and returns a formula of them."""

    num_classes = K
    divisor = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.7))
        self.encoded, self.shown = [], []

    def encode(self, image, presegmentation):
        self.encoded.append((image, presegmentation))
        return [self.weight * image]

    def denoise(self, x_t, t, features, solver="", solver_steps=0):
        shown = {"x_t": x_t, "t": t.clone(), "grad": torch.is_grad_enabled(), "features": features}
        self.shown.append(shown | {"solver_steps": solver_steps})
        return self.weight * x_t + features[0] - t.view(-1, *[1] * (x_t.dim() - 1)) / 1000


class Case:
    """A batch, the networks, and the normal fields that were drawn on the way."""

    def __init__(self, monkeypatch, batch=16, size=SIZE, **options):
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(batch, 1, *size, generator=generator)
        self.label = torch.randint(K, (batch, 1, *size), generator=generator)
        self.network = PDDDPM(Segmenter(), Recorder(), time_steps=STEPS, **options)
        self.fields = []
        randn_like = torch.randn_like

        def recorded(x, **kwargs):
            self.fields.append(randn_like(x, **kwargs))
            return self.fields[-1]

        monkeypatch.setattr(torch, "randn_like", recorded)

    def run(self, process, seed=0, presegmentation=None, **options):
        torch.manual_seed(seed)
        inferer = DenoisingInferer(STEPS, process, precision="float32", **options)
        return inferer(self.image, self.network, self.label, presegmentation)

    @property
    def truth(self):
        return one_hot(self.label) * 2 - 1

    @property
    def x_pre(self):
        return one_hot(self.network.segment(self.image).argmax(1, keepdim=True)) * 2 - 1

    def abar(self, t):
        return self.network.abar[t].view(-1, 1, 1, 1)


def one_hot(labels):
    return torch.cat([labels == k for k in range(K)], dim=1).float()


@pytest.fixture
def case(monkeypatch):
    return Case(monkeypatch)


class TestStates:
    def test_ddpm(self, case):
        case.run("ddpm")
        (shown,) = case.network.denoiser.shown
        a = case.abar(shown["t"])
        assert torch.equal(shown["x_t"], a.sqrt() * case.truth + (1 - a).sqrt() * case.fields[-1])
        assert len(case.fields) == 1

    def test_presegmentation(self, case):
        case.run("presegmentation")
        (shown,) = case.network.denoiser.shown
        a = case.abar(shown["t"])
        assert torch.equal(shown["x_t"], a.sqrt() * case.x_pre + (1 - a).sqrt() * case.fields[-1])
        assert not torch.equal(case.x_pre, case.truth)

    def test_residual(self, case):
        case.run("residual")
        (shown,) = case.network.denoiser.shown
        root, noise = case.abar(shown["t"]).sqrt(), (1 - case.abar(shown["t"])).sqrt() * case.fields[-1]
        expected = (2 * root - 1) * case.truth + (1 - root) * case.x_pre + noise
        assert torch.allclose(shown["x_t"], expected, atol=1e-6)

    def test_recycled(self, case):
        case.run("recycled")
        first, shown = case.network.denoiser.shown
        a = case.network.abar[STEPS[0]]
        x_start = a.sqrt() * case.x_pre + (1 - a).sqrt() * case.fields[0]
        assert first["t"].tolist() == [STEPS[0]]
        assert torch.equal(first["x_t"], x_start)
        own = (1.7 * x_start + 1.7 * case.image - STEPS[0] / 1000).softmax(1) * 2 - 1
        at_start = shown["t"] == STEPS[0]
        assert 0 < at_start.sum() < len(at_start)
        source = torch.where(at_start.view(-1, 1, 1, 1), case.x_pre, own)
        a = case.abar(shown["t"])
        assert torch.allclose(shown["x_t"], a.sqrt() * source + (1 - a).sqrt() * case.fields[1], atol=1e-6)

    def test_recycled_prediction_passes_no_gradient(self, case):
        denoised = case.run("recycled")
        first, shown = case.network.denoiser.shown
        assert not first["grad"]
        assert not first["features"][0].requires_grad
        assert not shown["x_t"].requires_grad
        assert shown["features"][0].requires_grad
        assert denoised.output.requires_grad


class TestPresegmentations:
    @pytest.mark.parametrize("process", PROCESSES)
    def test_encoder_sees_image_and_the_state_of_the_presegmentation(self, case, process):
        case.run(process)
        ((image, presegmentation),) = case.network.denoiser.encoded
        assert torch.equal(image, case.image)
        assert torch.equal(presegmentation, case.x_pre)

    def test_corruption_is_applied_to_what_is_shown_and_noised(self, case):
        given = []

        def rolled(presegmentation):
            given.append(presegmentation)
            return presegmentation.roll(1, dims=1)

        case.run("presegmentation", corruption=rolled)
        assert torch.equal(given[0] * 2 - 1, case.x_pre)
        expected = case.x_pre.roll(1, dims=1)
        assert torch.equal(case.network.denoiser.encoded[0][1], expected)
        (shown,) = case.network.denoiser.shown
        a = case.abar(shown["t"])
        assert torch.equal(shown["x_t"], a.sqrt() * expected + (1 - a).sqrt() * case.fields[-1])

    def test_given_presegmentation_replaces_the_segmenter_and_is_not_corrupted(self, case):
        given = torch.randint(K, case.label.shape)
        case.run("presegmentation", presegmentation=given, corruption=lambda p: p.flip(1))
        assert case.network.segmenter.calls == 0
        assert torch.equal(case.network.denoiser.encoded[0][1], one_hot(given) * 2 - 1)

    @pytest.mark.parametrize("process", PROCESSES)
    def test_segmenter_gets_no_gradient(self, case, process):
        case.network.segmenter.requires_grad_(True)  # even if it is not frozen
        denoised = case.run(process)
        denoised.output.square().mean().backward()
        assert case.network.segmenter.scale.grad is None
        assert case.network.denoiser.weight.grad.abs() > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("process", PROCESSES)
def test_every_weight_of_the_denoiser_is_trained(process, precision):
    # autocast keeps cast weights: those of the recycled pass without gradient must not serve the pass with one
    torch.manual_seed(0)
    denoiser = ODEUNet(2, 1, K, presegmentation_channels=K, channels=(8, 8), stem_channels=8, embedding_channels=16)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    network = PDDDPM(Segmenter(), denoiser, time_steps=STEPS).train()
    inferer = DenoisingInferer(STEPS, process, precision=precision)
    output = inferer(torch.randn(4, 1, 8, 8), network, torch.randint(K, (4, 1, 8, 8))).output
    assert output.dtype == torch.float32
    output.square().mean().backward()
    assert not [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]


class TestTargets:
    @pytest.mark.parametrize("process", PROCESSES)
    def test_x0_is_the_truth(self, case, process):
        assert torch.equal(case.run(process).target, case.truth)

    @pytest.mark.parametrize("process", PROCESSES)
    @pytest.mark.parametrize("prediction", ["eps", "v"])
    def test_target_leads_to_the_truth_by_the_papers_formulae(self, monkeypatch, process, prediction):
        case = Case(monkeypatch, prediction=prediction)
        target = case.run(process).target
        shown = case.network.denoiser.shown[-1]
        a, x_t = case.abar(shown["t"]), shown["x_t"]
        if prediction == "eps":
            x_0 = (x_t - (1 - a).sqrt() * target) / a.sqrt()
        else:
            x_0 = a.sqrt() * x_t - (1 - a).sqrt() * target
        assert torch.allclose(x_0, case.truth, atol=2e-4)


class TestKinds:
    def test_metatensors_stay_outside_of_the_networks(self, case):
        case.image, case.label = MetaTensor(case.image), MetaTensor(case.label)
        denoised = case.run("recycled", presegmentation=MetaTensor(case.label.as_tensor()))
        ((image, presegmentation),) = case.network.denoiser.encoded
        tensors = [image, presegmentation, *denoised, *(shown["x_t"] for shown in case.network.denoiser.shown)]
        assert not any(isinstance(x, MetaTensor) for x in tensors)

    def test_short_types_inside_float32_outside(self, monkeypatch):
        case = Case(monkeypatch)
        torch.manual_seed(0)
        denoised = DenoisingInferer(STEPS, "recycled")(case.image, case.network, case.label)
        assert denoised.output.dtype == denoised.target.dtype == torch.float32
        assert case.network.denoiser.shown[-1]["x_t"].dtype == torch.float32


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"time_steps": []}, "time_steps: found an empty list"),
            ({"dense_fraction": 1.1}, "dense_fraction: found 1.1, expected a number from 0 to 1"),
            ({"dense_fraction": -0.1}, "dense_fraction: found -0.1"),
            ({"precision": "bf16"}, "precision: found 'bf16'"),
            ({"training_process": "x"}, "training_process: found 'x'"),
            ({"solver_steps": ()}, "solver_steps: found an empty list"),
        ],
    )
    def test_out_of_range_names_the_key(self, options, text):
        with pytest.raises(UserError, match=text):
            DenoisingInferer(**{"time_steps": STEPS} | options)

    @pytest.mark.parametrize("steps", [[1000], [3, 5]])
    def test_time_steps_that_the_network_does_not_have(self, case, steps):
        with pytest.raises(ValueError, match="time_steps: "):
            DenoisingInferer(steps)(case.image, case.network, case.label)

    def test_a_residual_start_that_holds_the_truth_again(self, case):
        with pytest.raises(UserError, match="start_step: found 665, expected at most 664"):
            DenoisingInferer([664, 300], "residual")(case.image, case.network, case.label)

    def test_the_presegmentation_is_noised_where_there_is_no_label(self, case):
        case.label[:, :, 0] = -1
        preseg = torch.full_like(case.label, 2)
        torch.manual_seed(0)
        case.run("ddpm", presegmentation=preseg)
        found = case.network.denoiser.shown[-1]["x_t"]
        case.label[:, :, 0] = 2
        torch.manual_seed(0)
        case.run("ddpm", presegmentation=preseg)
        assert torch.equal(found, case.network.denoiser.shown[-1]["x_t"])

    @pytest.mark.parametrize("value", [K, -2])
    def test_labels_that_the_network_does_not_have(self, case, value):
        case.label[0, 0, 0, 0] = value
        with pytest.raises(UserError, match=r"label: found values from .* expected 0 to 2; fix 'labels'"):
            case.run("ddpm")
        wrong, case.label = case.label, case.label * 0
        with pytest.raises(UserError, match=r"presegmentation: found values from"):
            case.run("ddpm", presegmentation=wrong)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_times_of_dense_cases_follow_a_beta_distribution(fraction):
    torch.manual_seed(0)
    inferer = DenoisingInferer(list(range(9, -1, -1)), **{"dense_fraction": fraction} if fraction else {})
    t = inferer._draw(torch.zeros(40_000, 2, 1, 1), None).t
    found = torch.bincount(9 - t, minlength=10) / len(t)  # from the start of the chain to its end
    dense = np.diff(beta.cdf(np.linspace(0, 1, 11), 1.2, 4.0))
    assert dense[0] > 0.2 > 1e-3 > dense[-1]
    assert found.numpy() == pytest.approx(fraction * dense + (1 - fraction) / 10, abs=0.008)
    of_two = DenoisingInferer([9, 0], dense_fraction=1.0)._draw(torch.zeros(40_000, 2, 1, 1), None).t
    assert (of_two == 0).float().mean() == pytest.approx(beta.sf(0.5, 1.2, 4.0), abs=0.008)


class TestDistributedDataParallel:
    """Gradients are averaged only if the whole training call runs within the wrapper's forward."""

    def wrapped(self, network):
        wrapper = DistributedDataParallel.__new__(DistributedDataParallel)  # without a process group
        torch.nn.Module.__init__(wrapper)
        wrapper.module = network
        return wrapper

    def test_within_forward(self, case, monkeypatch):
        monkeypatch.setattr(DistributedDataParallel, "forward", lambda self, *args: self.module(*args))
        inferer, seeds = DenoisingInferer(STEPS, precision="float32"), torch.arange(len(case.image))
        expected = inferer(case.image, case.network, case.label, seeds=seeds)
        found = inferer(case.image, self.wrapped(InForward(case.network)), case.label, seeds=seeds)
        assert torch.equal(found.output, expected.output)

    def test_the_pair_itself_is_refused(self, case):
        with pytest.raises(UserError, match=r"^network: found DistributedDataParallel around the pair itself"):
            DenoisingInferer(STEPS)(case.image, self.wrapped(case.network), case.label)


class TestSeeds:
    """What is drawn for a case depends on its seed, not on its batch."""

    @pytest.mark.parametrize("process", PROCESSES)
    def test_alone_as_in_a_batch(self, process):
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(4, 1, 8, 8, generator=generator)
        label = torch.randint(K, (4, 1, 8, 8), generator=generator)
        network = PDDDPM(Segmenter(), Recorder(), time_steps=STEPS)
        options = {"corruption": PresegmentationCorruption(), "precision": "float32"}
        inferer = DenoisingInferer(STEPS, process, **options)
        seeds = torch.tensor([5, 2**62, 7, 5])
        whole = inferer(image, network, label, seeds=seeds)
        shown = network.denoiser.shown[-1]["x_t"]
        for i in range(4):
            torch.manual_seed(100 + i)
            alone = inferer(image[i : i + 1], network, label[i : i + 1], seeds=seeds[i : i + 1])
            torch.testing.assert_close(alone.output, whole.output[i : i + 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(network.denoiser.shown[-1]["x_t"], shown[i : i + 1], rtol=0, atol=1e-5)
        assert not torch.allclose(shown[0], shown[1])


def test_batches_draw_one_of_the_solver_steps_and_all_come(monkeypatch):
    case = Case(monkeypatch)
    for seed in range(20):
        case.run("ddpm", seed, solver_steps=(1, 4))
    assert {shown["solver_steps"] for shown in case.network.denoiser.shown} == {1, 4}
    case = Case(monkeypatch)
    case.run("ddpm")
    assert case.network.denoiser.shown[0]["solver_steps"] == 0
