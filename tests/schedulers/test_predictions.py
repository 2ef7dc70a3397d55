import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from monai_pdddpm.schedulers import (
    PREDICTIONS,
    cumulative_schedule,
    decode_probabilities,
    encode_labels,
    predicted_x0,
    regression_target,
    signal_to_noise,
    start_state,
)

RANGES = [(-1.0, 1.0), (0.0, 1.0)]


@pytest.fixture
def probabilities():
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 4).softmax(dim=1)


def test_encoding_by_hand():
    p = torch.tensor([0.0, 0.25, 1.0])
    assert encode_labels(p, -1.0, 1.0).tolist() == [-1.0, -0.5, 1.0]
    assert encode_labels(p, 0.0, 1.0).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_decoding_undoes_encoding(probabilities, low, high):
    decoded = decode_probabilities(encode_labels(probabilities, low, high), low, high)
    torch.testing.assert_close(decoded, probabilities)


def test_decoding_by_hand():
    # Channels at 0.8, 0.2 and below the range, as an eps-predictor may leave them: 0.9 and 0.6 of 1.5.
    x_0 = torch.tensor([0.8, 0.2, -3.0]).view(1, 3, 1)
    torch.testing.assert_close(
        decode_probabilities(x_0, -1.0, 1.0).flatten(), torch.tensor([0.9 / 1.5, 0.6 / 1.5, 0.0])
    )


@pytest.mark.parametrize(("total", "share"), [(1.5e-6, 1.0), (1e-6, 0.5), (0.9e-6, 0.5)])
def test_less_than_a_millionth_is_no_class(total, share):
    torch.testing.assert_close(decode_probabilities(torch.tensor([[total, 0.0]]), 0.0, 1.0)[0, 0].item(), share)


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("t", [0, 299, 899])
def test_the_target_gives_back_x0(probabilities, low, high, t):
    abar = cumulative_schedule(1000, "cosine")[t].double()
    x_0 = encode_labels(probabilities, low, high).double()
    for x_t in (start_state(x_0, torch.randn_like(x_0), abar), torch.randn_like(x_0)):
        for prediction in ("eps", "v"):
            target = regression_target(x_0, x_t, abar, prediction)
            found = predicted_x0(target, x_t, abar, prediction, low, high)
            torch.testing.assert_close(found, x_0, rtol=0, atol=1e-4)
        assert regression_target(x_0, x_t, abar, "x0") is x_0
        # A network predicts x_0 as logits, so the logarithm stands between.
        logits = decode_probabilities(x_0, low, high).log()
        found = predicted_x0(logits, x_t, abar, "x0", low, high)
        torch.testing.assert_close(found.double(), x_0, rtol=0, atol=1e-5)


def test_the_target_is_the_noise_or_v_that_was_added():
    torch.manual_seed(0)
    x_0, eps = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    scheduler = DDPMScheduler(1000, schedule="cosine")
    t = torch.tensor([99, 799])
    abar = cumulative_schedule(1000, "cosine")[t].double().view(2, 1, 1, 1)
    x_t = start_state(x_0, eps, abar)
    torch.testing.assert_close(x_t, scheduler.add_noise(x_0, eps, t))
    torch.testing.assert_close(regression_target(x_0, x_t, abar, "eps"), eps)
    torch.testing.assert_close(regression_target(x_0, x_t, abar, "v"), scheduler.get_velocity(x_0, eps, t))


@pytest.mark.parametrize("t", [99, 299, 899])
def test_the_target_of_a_noised_presegmentation_exceeds_its_noise(t):
    # eps' = eps + sqrt(SNR) (x_pre - x_0): what leads from x_0 to that state, large where little noise was added.
    torch.manual_seed(0)
    x_0, x_pre, eps = (torch.randn(1, 2, 5).double() for _ in range(3))
    abar = cumulative_schedule(1000, "cosine")[t].double()
    found = regression_target(x_0, start_state(x_pre, eps, abar), abar, "eps")
    torch.testing.assert_close(found, eps + signal_to_noise(abar).sqrt() * (x_pre - x_0))


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_stays_in_the_label_range_and_in_float32(low, high, prediction):
    torch.manual_seed(0)
    output = 100 * torch.randn(2, 3, 50)
    found = predicted_x0(output.bfloat16(), torch.randn(2, 3, 50), torch.tensor(0.3), prediction, low, high)
    assert found.dtype == torch.float32
    assert float(found.min()) == low
    assert float(found.max()) == high
