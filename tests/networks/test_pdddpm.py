import io

import pytest
import torch
from torch import nn

from monai_pdddpm.networks import PDDDPM, ODEUNet
from monai_pdddpm.networks.ode_block import SecondOrderODEBlock
from monai_pdddpm.schedulers import (
    Chain,
    cumulative_schedule,
    decode_probabilities,
    encode_labels,
    predicted_x0,
    reverse_step,
    start_state,
    uniform_steps,
)

CLASSES = 3
STEPS = [899, 449, 20]


class Segmenter(nn.Module):
    """A segmenter that would change in training mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, CLASSES, 3, padding=1)
        self.norm = nn.BatchNorm2d(CLASSES)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return 2 * self.drop(self.norm(self.conv(x)))


class Oracle(nn.Module):
    """A denoiser that returns the truth, one-hot, for any input."""

    def __init__(self, truth: torch.Tensor):
        super().__init__()
        self.register_buffer("truth", truth)
        self.num_classes, self.divisor = CLASSES, 1

    @torch.jit.export
    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        return [image]

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        return 1000 * self.truth.expand(x_t.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def denoiser(seed=0, presegmentation_channels=CLASSES, stride=2):
    torch.manual_seed(seed)
    options = {"embedding_channels": 8, "groups": 4, "solver_steps": 2}  # one step would be the default of any call
    net = ODEUNet(2, 2, CLASSES, presegmentation_channels, (8, 16), 8, stride, **options)
    for module in net.modules():
        if isinstance(module, SecondOrderODEBlock):
            nn.init.normal_(module.acceleration.conv_out.weight, std=0.2)
    return net


def pair(seed=0, **options):
    torch.manual_seed(seed)
    stride = 2 if options.get("prediction", "x0") == "x0" else 1
    return PDDDPM(Segmenter(), denoiser(seed, stride=stride), **{"time_steps": STEPS} | options)


def inputs(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 2, 8, 8, generator=generator)
    return image, torch.randn(batch, CLASSES, 8, 8, generator=generator)


def one_hot(index):
    return nn.functional.one_hot(index, CLASSES).movedim(-1, 1).float()


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("label_range", [(-1, 1), (0, 1)])
@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
def test_forward_is_the_chain_written_by_hand(prediction, label_range, schedule):
    net = pair(prediction=prediction, label_range=label_range, schedule=schedule)
    image, noise = inputs()
    with torch.no_grad():
        found = net(image, noise)
        abar = cumulative_schedule(1000, schedule)
        x_pre = encode_labels(one_hot(net.segmenter(image).argmax(dim=1)), *label_range)
        x = start_state(x_pre, noise, abar[899])
        for t, previous in ((899, 449), (449, 20), (20, None)):
            output = net.denoiser(x, torch.tensor([t, t]), image, x_pre)
            x_0 = predicted_x0(output, x, abar[t], prediction, *label_range)
            if previous is not None:
                x = reverse_step(x, x_0, abar[t], abar[previous])
        expected = decode_probabilities(x_0, *label_range)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 8, 8))
    assert torch.equal(net(image, noise), net(image, noise))
    assert (net(image, -noise) - found).abs().max() > 1e-3


def test_forward_of_a_residual_pair_is_resfusions_chain():
    net, (image, noise) = pair(training_process="residual"), inputs()
    with torch.no_grad():
        x_pre = 2 * one_hot(net.segment(image).argmax(dim=1)) - 1
        x, abar = start_state(x_pre, noise, net.abar[899]), net.abar
        for t, previous in ((899, 449), (449, 20), (20, None)):
            x_0 = predicted_x0(net.denoiser(x, torch.tensor([t, t]), image, x_pre), x, abar[t], "x0", -1, 1)
            if previous is not None:
                shift = x_pre - x_0
                x = reverse_step(x - shift, x_0 - shift, abar[t], abar[previous]) + shift
        found = net(image, noise)
        torch.testing.assert_close(found, decode_probabilities(x_0, -1, 1), rtol=1e-4, atol=1e-5)
        assert (found - pair()(image, noise)).abs().max() > 2e-3


def test_without_noise_given_it_is_drawn():
    net, (image, _) = pair(), inputs()
    torch.manual_seed(3)
    found = net(image)
    torch.manual_seed(3)
    assert torch.equal(net(image, torch.randn(2, CLASSES, 8, 8)), found)
    assert not torch.equal(net(image), found)


def test_probabilities_are_float32_whatever_the_segmenter_computes_in():
    net, (image, _) = pair(), inputs()
    expected = net.segment(image)
    net.segmenter.double()
    found = net.segment(image.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_no_time_step_gives_the_pre_segmentation():
    net, (image, noise) = pair(time_steps=[]), inputs()
    expected = net.segmenter(image).softmax(dim=1)
    assert torch.equal(net(image, noise), expected)
    assert torch.equal(net(image), net.segment(image))


@pytest.mark.parametrize("steps", [[899, 449, 20], [299], [999, 0], [5, 4, 3]])
@pytest.mark.parametrize("label_range", [(-1, 1), (0, 1)])
def test_a_perfect_denoiser_gives_the_truth_from_any_start(steps, label_range):
    truth = one_hot(torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(4)))
    net = PDDDPM(Segmenter(), Oracle(truth), steps, label_range=label_range)
    for seed in range(3):
        image, noise = inputs(seed=seed)
        assert torch.equal(net(image, 10 * noise), truth)
        assert not torch.equal(net.prepare_presegmentation(net.segment(image)), truth)


def test_the_presegmentation_is_the_one_hot_argmax():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.35, 0.25]]).view(2, 3, 1, 1)
    assert pair().prepare_presegmentation(probabilities).flatten().tolist() == [0, 1, 0, 1, 0, 0]
    # Where two classes tie there is still one only.
    assert pair().prepare_presegmentation(torch.full((1, 3, 2, 2), 1 / 3)).sum(dim=1).eq(1).all()


@pytest.mark.parametrize("label_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_the_denoiser_sees_the_presegmentation_in_the_label_range(label_range):
    net, (image, _) = pair(label_range=label_range), inputs()
    seen = []
    net.denoiser.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    presegmentation = net.prepare_presegmentation(net.segment(image))
    net.encode(image, presegmentation)
    low, high = label_range
    torch.testing.assert_close(seen[0], torch.cat([image, low + (high - low) * presegmentation], dim=1))
    torch.testing.assert_close(net.state(presegmentation), low + (high - low) * presegmentation)


def test_the_segmenter_is_frozen_and_stays_in_evaluation_mode():
    net, (image, noise) = pair(), inputs()
    expected = net.segment(image)
    assert net.train() is net
    assert net.training
    assert net.denoiser.training
    assert not any(module.training for module in net.segmenter.modules())
    net(image, noise).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in net.segmenter.parameters())
    assert all(p.requires_grad and p.grad is not None for p in net.denoiser.parameters())
    # Neither dropout nor running means moved.
    assert torch.equal(net.segment(image), expected)
    net.eval()
    assert not any(module.training for module in net.modules())
    nn.Sequential(net).train()
    assert not any(module.training for module in net.segmenter.modules())


def test_five_even_steps_from_900_are_the_default():
    assert PDDDPM(Segmenter(), denoiser()).time_steps == uniform_steps(900, 5)


def test_another_denoiser_shares_the_segmenter():
    net, (image, noise) = pair(), inputs()
    expected, other = net(image, noise), denoiser(seed=5)
    twin = net.with_denoiser(other)
    assert twin.denoiser is other
    assert twin.segmenter is net.segmenter
    torch.manual_seed(0)
    assert torch.equal(twin(image, noise), PDDDPM(Segmenter(), other, STEPS)(image, noise))
    assert torch.equal(net(image, noise), expected)
    assert not torch.equal(twin(image, noise), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"time_steps": []},
        {"time_steps": [299]},
        {"prediction": "eps", "label_range": (0, 1)},
        {"training_process": "residual"},
        {"prediction": "v", "schedule": "linear_beta"},
    ],
    ids=str,
)
def test_torchscript_gives_the_same(options):
    net, (image, noise) = pair(**options).eval(), inputs()
    scripted = torch.jit.script(net)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    with torch.no_grad():
        for script in (scripted, loaded):
            for _ in range(3):  # the second and third call run optimised graphs
                torch.testing.assert_close(script(image, noise), net(image, noise), rtol=1e-4, atol=1e-5)


def test_a_script_offers_the_parts_too():
    net, (image, noise) = pair().eval(), inputs()
    script = torch.jit.script(net)
    with torch.no_grad():
        probabilities = net.segment(image)
        torch.testing.assert_close(script.segment(image), probabilities)
        presegmentation = net.prepare_presegmentation(probabilities)
        assert torch.equal(script.prepare_presegmentation(probabilities), presegmentation)
        assert torch.equal(script.state(presegmentation), net.state(presegmentation))
        features = script.encode(image, presegmentation)
        for found, expected in zip(features, net.encode(image, presegmentation), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        x_t = start_state(net.state(presegmentation), noise, net.abar[899])
        t = torch.tensor([899])
        output = net.denoise(x_t, t, features)
        torch.testing.assert_close(script.denoise(x_t, t, features), output, rtol=1e-4, atol=1e-5)
        better = net.denoise(x_t, t, features, "rk4", 4)
        assert (better - output).abs().max() > 1e-4
        torch.testing.assert_close(script.denoise(x_t, t, features, "rk4", 4), better, rtol=1e-4, atol=1e-5)
        own, two, one = (net.predict(x_t, 899, features, *steps) for steps in ((), ("", 2), ("", 1)))
        assert torch.equal(own, two)
        assert (own - one).abs().max() > 1e-5
        assert torch.equal(output, net.denoise(x_t, t, features, "", 2))
        for chain in (Chain([899, 300], [0, 2]), Chain([899, 300], [1, 1], 1.0, True)):
            fields = [noise, noise.flip(0)][: chain.draws]
            expected = net.reverse(presegmentation, features, fields, chain)
            torch.testing.assert_close(
                script.reverse(presegmentation, features, fields, chain), expected, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"prediction": "noise"}, "prediction"),
        ({"label_range": [1.0, -1.0]}, "label_range"),
        ({"label_range": [1.0]}, "label_range"),
        ({"label_range": [1.0, 1.0]}, "label_range"),
        ({"label_range": ["nan", 1]}, "label_range"),
        ({"time_steps": [0, 5]}, "time_steps"),
        ({"time_steps": [1000]}, "time_steps"),
        ({"time_steps": [50], "num_train_timesteps": 50}, "time_steps"),
    ],
)
def test_wrong_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        pair(**options)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_denoiser_at_half_the_resolution_cannot_return_noise(prediction):
    with pytest.raises(ValueError, match=f"^prediction: found '{prediction}', .* expected 'x0', or stride 1"):
        PDDDPM(Segmenter(), denoiser(stride=2), STEPS, prediction=prediction)
