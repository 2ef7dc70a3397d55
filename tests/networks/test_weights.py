"""Weights are loaded into their networks, and a file that does not fit is refused."""

import os
import pickle

import pytest
import torch
from torch import nn

from monai_pdddpm.bundle import load_network, load_segmenter
from monai_pdddpm.networks import PDDDPM, NoSegmenter
from monai_pdddpm.networks.weights import in_fast_layout, load_weights, read_weights
from monai_pdddpm.utils.errors import UserError


class Denoiser(nn.Module):
    num_classes = 2
    divisor = 1

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)


def segmenter(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def pair(seed=0, width=4):
    torch.manual_seed(seed)
    return PDDDPM(segmenter(width), Denoiser())


def equal(first, second):
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


class TestNetwork:
    @pytest.mark.parametrize("bare", [False, True])
    def test_loaded_whole(self, tmp_path, bare):
        trained = pair(1)
        state = trained.state_dict()
        torch.save(state if bare else {"model": state}, tmp_path / "model.pt")
        loaded = load_network(pair(2).train(), str(tmp_path / "model.pt"))
        assert equal(loaded, trained)
        assert not loaded.training
        assert not loaded.denoiser.training

    def test_a_device_that_is_not_there(self, tmp_path):
        torch.save(pair(1).state_dict(), tmp_path / "model.pt")
        for load in (load_network, load_segmenter):
            with pytest.raises(
                UserError, match=r"^device: found 'cuda:99'.* has (no CUDA device|CUDA devices 0 to \d)"
            ):
                load(pair(), str(tmp_path / "model.pt"), "cuda:99")

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match=rf"model_file: found no {tmp_path / 'none.pt'}, expected weights; train"):
            load_network(pair(), tmp_path / "none.pt")

    def test_another_network_names_what_does_not_fit(self, tmp_path):
        torch.save({"model": pair(width=5).state_dict()}, tmp_path / "model.pt")
        network = pair(1)
        with pytest.raises(UserError) as caught:
            load_network(network, tmp_path / "model.pt")
        text = str(caught.value)
        assert "holds weights of another network: 7 " in text
        assert "segmenter.0.weight (5, 1, 3, 3)" in text
        assert text.count("; ") == 3  # between three entries, and before the remedy
        assert "\n" not in text
        assert equal(network, pair(1))  # nothing was loaded

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1j])
    def test_weights_that_are_no_numbers(self, bad):
        state = pair().state_dict()
        bias = state["denoiser.conv.bias"].to(torch.complex64 if bad == 1j else torch.float32)
        bias[1] = bad
        state["denoiser.conv.bias"] = bias
        network = pair(1)
        with pytest.raises(UserError, match=r"not finite real .*denoiser\.conv\.bias"):
            load_weights(network, state, "model.pt")
        assert equal(network, pair(1))


class TestSegmenter:
    def save(self, path, network):
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": network.state_dict()}, path)
        return str(path)

    def test_out_of_a_whole_pair(self, tmp_path):
        trained, network = pair(5), pair(1)
        load_segmenter(network, [self.save(tmp_path / "model.pt", trained)])
        assert equal(network.segmenter, trained.segmenter)
        assert not torch.equal(network.denoiser.conv.weight, trained.denoiser.conv.weight)

    def test_first_file_that_is_there(self, tmp_path):
        first, second = segmenter(), segmenter()
        files = [
            str(tmp_path / "none.pt"),
            self.save(tmp_path / "a.pt", first),
            self.save(tmp_path / "b.pt", second),
        ]
        assert equal(load_segmenter(pair(), files).segmenter, first)

    def test_with_the_denoiser_of_a_pair(self, tmp_path):
        trained, own = pair(5), segmenter()
        files = [self.save(tmp_path / "segmenter.pt", own)], self.save(tmp_path / "model.pt", trained)
        network = load_segmenter(pair(1), files[0], denoiser_file=files[1])
        assert equal(network.segmenter, own)
        assert equal(network.denoiser, trained.denoiser)
        with pytest.raises(UserError, match=r"segmenter.pt holds weights of another network: 2 entries do not fit"):
            load_segmenter(pair(1), files[0], denoiser_file=files[0][0])

    def test_none_is_there(self, tmp_path):
        with pytest.raises(UserError, match=r"segmenter: no weights were found at a.pt or b.pt; train the segmenter"):
            load_segmenter(pair(), ["a.pt", "b.pt"])

    def test_none_is_needed_without_a_segmenter(self):
        network = PDDDPM(NoSegmenter(), pair().denoiser)
        assert load_segmenter(network, ["a.pt"]) is network


class Evil:
    """What an attacker would put into a file of weights."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TestFiles:
    def refused(self, path):
        with pytest.raises(UserError) as caught:
            read_weights(path)
        text = str(caught.value)
        assert text.startswith(f"model_file: {path} cannot be read as weights")
        assert text.endswith("put the bundle's own model.pt there")
        assert "\n" not in text

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
    def test_no_pytorch_file(self, tmp_path, content):
        (tmp_path / "model.pt").write_bytes(content)
        self.refused(tmp_path / "model.pt")

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [1],
            {"model": {}},
            {"model": 3},
            {"a": 1.0},
            {1: torch.zeros(3)},
            torch.zeros(3),
            {"a": torch.zeros(3), "b": 1.0},
        ],
    )
    def test_something_else(self, tmp_path, content):
        torch.save(content, tmp_path / "model.pt")
        self.refused(tmp_path / "model.pt")

    def test_cut_short(self, tmp_path):
        torch.save({"model": pair().state_dict()}, tmp_path / "model.pt")
        whole = (tmp_path / "model.pt").read_bytes()
        (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
        self.refused(tmp_path / "model.pt")

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_code_is_not_run(self, tmp_path):
        path, trap = tmp_path / "model.pt", tmp_path / "trapped"
        for save in (lambda x: torch.save(x, path), lambda x: path.write_bytes(pickle.dumps(x))):
            save({"model": Evil(trap)})
            self.refused(path)
            assert not trap.exists()

    def test_from_a_gpu(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "model.pt")
        assert read_weights(tmp_path / "model.pt")["a"].device.type == "cpu"


class TestLayout:
    """On a CPU the channels of 3D convolutions lie last, and answers are the same."""

    @pytest.mark.parametrize("dims", [2, 3])
    def test_weights_and_outputs(self, dims):
        torch.manual_seed(0)
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        network = nn.Sequential(conv(1, 8, 3), nn.GroupNorm(2, 8), conv(8, 2, 3))
        x = torch.randn(2, 1, *[9] * dims)
        expected = network(x)
        found = in_fast_layout(network, "cpu")(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        if dims == 3:
            assert found.is_contiguous(memory_format=torch.channels_last_3d)
            assert not found.is_contiguous()
        else:
            assert network[0].weight.is_contiguous()

    def test_a_gpu_is_left_alone(self):
        network = nn.Conv3d(2, 2, 3)
        assert in_fast_layout(network, "cuda:0").weight.is_contiguous()
