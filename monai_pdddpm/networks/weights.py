"""Weights into networks, with an error that says what does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.utils.errors import UserError


def load_network(
    network: nn.Module,
    model_file: str | os.PathLike,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a model file into a network and put it on a device, ready to infer.

    Args:
        network: as the bundle defines it.
        model_file: ``{"model": state_dict}`` or a bare state dict; read with ``weights_only=True``.
        device: where to.

    Raises:
        UserError: when the file is missing, is not a weights file, or belongs to another network.
    """
    load_weights(network, read_weights(model_file), model_file)
    return in_fast_layout(network.to(device).eval(), device)


def in_fast_layout(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Store the weights of 3D convolutions with the channels last on a CPU, and their outputs follow.

    That takes 13 to 26 % of the time off, by network (``benchmarks/speed/speed.py --layout``); on a GPU it was not
    measured, and nothing is changed.
    """
    if torch.device(device).type == "cpu" and any(p.dim() == 5 for p in network.parameters()):
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def load_segmenter(
    network: PDDDPM, candidates: list[str], device: torch.device | str = "cpu", denoiser_file: str | None = None
) -> PDDDPM:
    """Load the trained segmenter into the pair, for the denoiser's training.

    Args:
        network: as the bundle defines it.
        candidates: files looked at in this order: of the segmenter alone or of the whole pair.
        device: where to.
        denoiser_file: of a whole pair, with whose denoiser the training begins; random weights when None.

    Raises:
        UserError: when none of the files exists, or the first that does is not of this segmenter, or the denoiser's
            is missing or of another denoiser.
    """
    if denoiser_file is not None:
        load_weights(network.denoiser, _part(read_weights(denoiser_file), "denoiser."), denoiser_file)
    for file in candidates:
        if Path(file).is_file():
            weights = read_weights(file)
            load_weights(network.segmenter, _part(weights, "segmenter.") or weights, file)
            return network.to(device)
    raise UserError(
        f"segmenter: no weights were found at {' or '.join(map(str, candidates))}; train the segmenter first with "
        f"python -m monai.bundle run training --config_file <bundle>/configs/train_segmenter.json"
    )


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def read_weights(file: str | os.PathLike) -> Mapping[str, torch.Tensor]:
    """Return the state dict in a file.

    Raises:
        UserError: when the file is missing, or anything else than tensors and primitives.
    """
    if not Path(file).is_file():
        raise UserError(f"model_file: {file} does not exist; train the bundle or put its model.pt there")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        content = content.get("model", content)
        if not content or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
            raise TypeError("it holds no state dict")
    except Exception as error:  # torch raises many kinds for a file that is not a checkpoint
        raise UserError(
            f"model_file: {file} cannot be read as weights, being damaged, no PyTorch file, or more than tensors, "
            "which is not loaded for safety; put the bundle's own model.pt there"
        ) from error
    return content


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], file: str | os.PathLike) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        UserError: naming the first entries that do not fit, or are not finite.
    """
    own = network.state_dict()
    wrong = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
    wrong += [k for k in weights if k not in own]
    if wrong:
        found = [f"{k} {tuple(weights[k].shape) if k in weights else 'missing'}" for k in wrong[:3]]
        raise UserError(
            f"model_file: {file} holds weights of another network: {len(wrong)} entries do not fit "
            f"({'; '.join(found)}); use the weights of this bundle or the network_def that they were trained with"
        )
    broken = [k for k, v in weights.items() if v.is_complex() or not torch.isfinite(v).all()]
    if broken:
        raise UserError(
            f"model_file: {file} holds weights that are not finite real numbers ({', '.join(broken[:3])}), expected "
            "none; train the bundle again, or put its own model.pt there"
        )
    network.load_state_dict(weights)
