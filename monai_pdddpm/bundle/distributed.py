"""A bundle on several processes, as torchrun starts them: joining, and what training needs to be one training."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.inferers.denoising_inferer import InForward
from monai_pdddpm.utils import ranks
from monai_pdddpm.utils.errors import UserError

# a process that is done waits for the others, and cases may take hours; torchrun itself ends all when one dies
PATIENCE = timedelta(days=7)


def rank_device(processes_per_device: int = 1) -> torch.device:
    """Return the CUDA device of this process among those of its machine, or the CPU where there is none.

    Args:
        processes_per_device: how many share a device, so that one reads and writes while another computes.

    Raises:
        UserError: when the machine has too few GPUs for its processes, or the number is not 1 or more.
    """
    if not isinstance(processes_per_device, int) or processes_per_device < 1:
        raise UserError(
            f"processes_per_device: found {processes_per_device!r}, expected a whole number of at least 1; fix "
            "--processes_per_device"
        )
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
    """Join the other processes: by NCCL on GPUs of their own, by gloo otherwise. A second call changes nothing.

    Args:
        device: of this process.

    Raises:
        UserError: when the process was not started by torchrun.
    """
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise UserError(
            "torchrun: found a process started without it, expected 'torchrun --nproc_per_node=2 -m monai.bundle run "
            "...'; start it that way, or leave the multi_gpu file out of --config_file"
        )
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # NCCL takes no two processes on one GPU
    own_gpu = on_gpu and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    dist.init_process_group("nccl" if own_gpu else "gloo", timeout=PATIENCE)
    if own_gpu:
        ranks._cpu_groups.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    if not ranks.is_first_rank():
        logging.disable(logging.INFO)  # the first process tells what concerns all


def leave_ranks() -> None:
    """Take leave of the other processes."""
    ranks._cpu_groups.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def distributed_network(network: nn.Module, device: torch.device | str) -> DistributedDataParallel:
    """Wrap a network so that its gradients are averaged over all processes.

    Args:
        network: the segmenter, or the pair of segmenter and denoiser; then its denoiser is what is trained.
        device: of this process.
    """
    # the pair is trained by its parts, and DistributedDataParallel looks at forward only
    trained = InForward(network) if hasattr(network, "denoise") else network
    ids = [torch.device(device)] if torch.device(device).type == "cuda" else None
    return DistributedDataParallel(trained, device_ids=ids)


class GlobalLoss(nn.Module):
    """A loss over the cases of all processes, as if they were one batch.

    A Dice loss over a batch is no mean over its cases, so the mean of the processes' losses would be another loss. The
    outputs are gathered instead, and the loss of all of them is taken by everyone. Its value is that of the whole
    batch; its gradient is multiplied by the number of processes, since DistributedDataParallel takes their mean where
    the sum is wanted.

    Args:
        loss: takes (output, target); the output is a tensor or a named tuple of tensors, all with the batch first.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of all processes' cases.

        Args:
            output: of this process, (B, ...) each; B is the same in all of them.
            target: (B, ...).
        """
        size = ranks.world_size()
        if size == 1:
            return self.loss(output, target)
        whole = type(output)(*map(_gather, output)) if isinstance(output, tuple) else _gather(output)
        value = self.loss(whole, _gather(target))
        return value.detach() + size * (value - value.detach())


def _gather(part: torch.Tensor) -> torch.Tensor:
    """Return all processes' tensors along the batch; only this one's carries a gradient."""
    part = part.as_tensor() if hasattr(part, "as_tensor") else part
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(ranks.world_size())]
    dist.all_gather(parts, part.detach().contiguous())
    parts[ranks.rank()] = part
    return torch.cat(parts)
