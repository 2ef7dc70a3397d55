"""A compiled denoiser gives what it gave before, and one that cannot be compiled goes on."""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import nn

from monai_pdddpm.networks import PDDDPM, CompiledDenoiser, ODEUNet


def denoiser():
    torch.manual_seed(0)
    return ODEUNet(2, 1, 2, presegmentation_channels=2, channels=(8,), stem_channels=8, embedding_channels=8).eval()


def inputs(batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, 2, 8, 8), torch.tensor([500.0]), torch.randn(1, 1, 8, 8), torch.randn(1, 2, 8, 8)


@torch.no_grad()
def compiled_and_own():
    """Return answers of a denoiser for two sizes, each compiled and as it was, and whether it is still compiled."""
    own = denoiser()
    compiled = CompiledDenoiser(own)
    answers = []
    for batch in (2, 1):
        x_t, t, image, presegmentation = inputs(batch)
        features = compiled.encode(image, presegmentation)
        pair = (compiled.denoise(x_t, t, features), own.denoise(x_t, t, features))
        answers.append([answer.tolist() for answer in pair])
    return answers, compiled._compiled is not None


@pytest.mark.slow
def test_answer_is_the_same_for_every_size():
    # in a process of its own: the compiler, once imported, replaces operators whose addresses TorchScript remembers,
    # which then takes for an operator whatever comes to lie there
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        answers, still = process.submit(compiled_and_own).result()
    assert still
    assert [len(found) for found, _ in answers] == [2, 1]
    for found, expected in answers:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_goes_on_uncompiled_and_says_so_once(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: broken)
    own = denoiser()
    compiled = CompiledDenoiser(own)
    x_t, t, image, presegmentation = inputs()
    features = own.encode(image, presegmentation)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(compiled.denoise(x_t, t, features), own.denoise(x_t, t, features))
    assert [record.getMessage() for record in caplog.records] == [
        "compile: the denoiser runs uncompiled (no C++ compiler was found)"
    ]


def test_too_little_memory_is_no_failure_of_the_compiler(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: full)
    compiled = CompiledDenoiser(denoiser())
    x_t, t, image, presegmentation = inputs()
    with pytest.raises(torch.OutOfMemoryError):
        compiled.denoise(x_t, t, compiled.encode(image, presegmentation))


def test_stands_for_the_denoiser_in_the_pair(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    pair = PDDDPM(nn.Conv2d(1, 2, 1), denoiser())
    twin = pair.with_denoiser(CompiledDenoiser(pair.denoiser))
    assert (twin.denoiser.divisor, twin.denoiser.num_classes) == (2, 2)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        twin.denoiser.nothing_of_this_name  # noqa: B018
    with pytest.raises(ValueError, match="compile: 'fast' was found, one of default, reduce-overhead is expected"):
        CompiledDenoiser(pair.denoiser, "fast")
