"""Training on several processes is the training of one on the batches of all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.bundle import GlobalLoss, distributed_network, join_ranks, rank_device
from monai_pdddpm.inferers import DenoisingInferer
from monai_pdddpm.inferers.denoising_inferer import Denoised
from monai_pdddpm.losses import DenoisingLoss
from monai_pdddpm.networks import PDDDPM, ODEUNet
from monai_pdddpm.utils import ranks
from monai_pdddpm.utils.errors import UserError

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("*_segmentation"))
SEGMENTER_LOSS = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)


def batch():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.randint(3, (4, 1, 8, 8), generator=generator)


def own(tensor):
    return tensor[ranks.rank() :: ranks.world_size()]


def pair():
    torch.manual_seed(0)
    denoiser = ODEUNet(
        spatial_dims=2, image_channels=1, num_classes=3, presegmentation_channels=3, channels=[8, 16], stem_channels=8
    )
    return PDDDPM(nn.Conv2d(1, 3, 1), denoiser)


def gradients(network):
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def of_segmenter():
    torch.manual_seed(0)
    network, (image, label) = nn.Conv2d(1, 3, 3, padding=1), batch()
    several = ranks.world_size() > 1
    trained = distributed_network(network, "cpu") if several else network
    loss = (GlobalLoss(SEGMENTER_LOSS) if several else SEGMENTER_LOSS)(trained(own(image)), own(label))
    loss.backward()
    return loss.item(), gradients(network)


def of_denoiser(process):
    network, (image, label) = pair(), batch()
    inferer = DenoisingInferer([899, 500, 10], process, precision="float32")
    several = ranks.world_size() > 1
    trained = distributed_network(network, "cpu") if several else network
    loss = GlobalLoss(DenoisingLoss()) if several else DenoisingLoss()
    value = loss(inferer(own(image), trained, own(label), seeds=own(torch.arange(4))), own(label))
    value.backward()
    return value.item(), gradients(network)


def check(found, expected):
    for value, gradient in found:
        assert value == pytest.approx(expected[0], rel=1e-6)
        assert gradient.keys() == expected[1].keys()
        for name, grad in expected[1].items():
            torch.testing.assert_close(gradient[name], grad, rtol=1e-4, atol=1e-6)


def test_loss_and_gradient_of_the_segmenter(in_processes):
    check(in_processes(2, of_segmenter), of_segmenter())


@pytest.mark.parametrize("process", ["ddpm", "recycled"])
def test_loss_and_gradient_of_the_denoiser(in_processes, process):
    check(in_processes(2, lambda: of_denoiser(process)), of_denoiser(process))


def test_mean_of_the_processes_would_be_another_loss():
    image, label = batch()
    output = torch.cat([image, -image, image**2], dim=1)
    halves = [SEGMENTER_LOSS(output[r::2], label[r::2]) for r in range(2)]
    assert abs(sum(halves) / 2 - SEGMENTER_LOSS(output, label)) > 1e-4


def test_wrapping_the_pair_itself_is_refused(in_processes):
    def work():
        image, label = batch()
        return DenoisingInferer([10])(image, DistributedDataParallel(pair()), label)

    for error in in_processes(2, work):
        assert isinstance(error, UserError)
        assert "distributed_network" in str(error)


def test_one_process_needs_no_gathering():
    output = Denoised(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    label = torch.zeros(1, 1, 4, 4)
    assert GlobalLoss(DenoisingLoss())(output, label) == DenoisingLoss()(output, label)


def test_started_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="found a process started without it, expected 'torchrun"):
        join_ranks("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert rank_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_device() == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="found 2 GPUs for process 2"):
        rank_device()
    assert rank_device(processes_per_device=2) == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UserError, match="start torchrun with --nproc_per_node=4"):
        rank_device(processes_per_device=2)
    with pytest.raises(UserError, match="processes_per_device: found 0, expected a whole number of at least 1"):
        rank_device(processes_per_device=0)


@pytest.mark.parametrize(("processes", "backend"), [("2", "cpu:gloo,cuda:nccl"), ("3", "gloo")])
def test_processes_that_share_a_gpu_meet_by_gloo(monkeypatch, processes, backend):
    begun = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: begun.append(backend))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    join_ranks("cuda:0")
    assert begun == [backend]


@pytest.mark.parametrize("stage", ["train_segmenter", "train"])
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_every_bundle_trains_in_two_processes(loader_of_two, bundle, stage):
    loader = loader_of_two(bundle, stage)
    assert len(loader) == (50 if bundle.name == "ms_lesion_mri_segmentation" else 2)  # of 100 windows, of 5 cases
    assert loader.drop_last


@pytest.mark.slow
def test_a_process_that_fails_leaves_its_group():
    program = """
import atexit, sys, torch.distributed as dist
from monai_pdddpm.bundle import join_ranks
atexit.register(lambda: print("in a group:", dist.is_initialized()))
join_ranks("cpu")
sys.exit("a failure")
"""
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | port, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "in a group: False\n", "a failure\n")
