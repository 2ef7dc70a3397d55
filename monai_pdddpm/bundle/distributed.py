"""Bundles in several processes of torchrun: device, process group, gradients and loss."""

from __future__ import annotations

import atexit
import logging
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.inferers.denoising_inferer import InForward, plain
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.utils import ranks
from monai_pdddpm.utils.checks import check_range
from monai_pdddpm.utils.errors import UserError

# a process that has finished waits for the others, and a case may take hours; torchrun ends all if one dies
PATIENCE = timedelta(days=7)


def rank_device(processes_per_device: int = 1) -> torch.device:
    """Return the CUDA device of this process on its machine, or the CPU if there is none.

    Several processes may share a device, so that one reads and writes while another computes.

    Raises:
        UserError: if the machine has too few GPUs for its processes, or the number is not 1 or more.
    """
    check_range("processes_per_device", processes_per_device, 1)
    count = torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu")
    local, most = int(os.environ.get("LOCAL_RANK", "0")), count * processes_per_device
    if local >= most:
        raise UserError(
            f"device: found {count} GPUs for process {local} (from 0) of this machine, expected at least "
            f"{local // processes_per_device + 1}; start torchrun with --nproc_per_node={most}, raise "
            "--processes_per_device (inference only), or give --device cpu"
        )
    return torch.device(f"cuda:{local // processes_per_device}")


def join_ranks(device: torch.device | str) -> None:
    """Join the processes of torchrun until this one ends; a second call changes nothing.

    CPU tensors and objects use gloo. CUDA tensors use NCCL if each process has its own GPU, else gloo.

    Raises:
        UserError: if the process was not started by torchrun.
    """
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise UserError(
            "torchrun: found a process started without it, expected 'torchrun --nproc_per_node=2 -m monai.bundle run "
            "...'; start it that way, or leave the multi_gpu file out of --config_file"
        )
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # NCCL refuses two processes on one GPU
    own_gpu = device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=PATIENCE)
    atexit.register(_leave_ranks)  # after a failure too: with a group that is left open, Python's end may abort
    if not ranks.is_first_rank():
        logging.getLogger("ignite").setLevel(logging.WARNING)  # the first process logs the progress of the engines


def _leave_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def distributed_network(network: nn.Module, device: torch.device | str) -> DistributedDataParallel:
    """Wrap the segmenter, or the pair whose denoiser is trained, to average gradients over all processes."""
    # the pair is trained by its parts, and DistributedDataParallel hooks into forward only
    trained = InForward(network) if isinstance(network, PDDDPM) else network
    ids = [torch.device(device)] if torch.device(device).type == "cuda" else None
    return DistributedDataParallel(trained, device_ids=ids)


class GlobalLoss(nn.Module):
    """A loss over the cases of all processes, as if they were one batch.

    A Dice loss over a batch is not the mean over its cases, so the mean of the processes' losses would be another loss.
    Instead, every process gathers all outputs and computes the loss of the whole batch. Its gradient is multiplied by
    the number of processes, because DistributedDataParallel averages gradients that must be summed.

    Args:
        loss: maps (output, target) to a scalar; the output is a tensor or a named tuple of tensors, batch first.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """Return the loss over the cases of all processes.

        Args:
            output: outputs of this process, (B, ...) each, with the same B in all processes.
            target: (B, ...).
        """
        size = ranks.world_size()
        if size == 1:
            return self.loss(output, target)
        whole = type(output)(*map(_gather, output)) if isinstance(output, tuple) else _gather(output)
        value = self.loss(whole, _gather(target))
        return value.detach() + size * (value - value.detach())


def _gather(part: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all processes along the batch axis; only this process's part has a gradient."""
    part = plain(part)
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(ranks.world_size())]
    dist.all_gather(parts, part.detach().contiguous())
    parts[ranks.rank()] = part
    return torch.cat(parts)
