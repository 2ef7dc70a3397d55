"""A bundle's whole answer for one window as TorchScript and ONNX files, checked against Python's before they appear."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata

from monai_pdddpm import __version__
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.noise import member_noise
from monai_pdddpm.networks import ADAPTIVE_SOLVERS, PDDDPM, ODEUNet
from monai_pdddpm.networks.fixed_ensemble import OUTPUTS, FixedEnsemble
from monai_pdddpm.transforms.outputs import SplitOutputd, Uncertaintyd
from monai_pdddpm.utils.errors import UserError

FILES = {"torchscript": "ensemble.ts", "onnx": "ensemble.onnx"}
LARGEST_DIFFERENCE = 1e-3
# what the inferer is told and one window does not see
_OF_VOLUMES = (
    "overlap",
    "blend_mode",
    "windows",
    "uncertainty_threshold",
    "dilation",
    "precision",
    "roi_size",
)


def export_ensemble(
    network: PDDDPM,
    inferer: PDDDPMInferer,
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    temperature: float = 1.0,
    formats: Sequence[str] = tuple(FILES),
    overwrite: bool = False,
) -> list[Path]:
    """Write ``ensemble.ts`` and ``ensemble.onnx``: image window in, probabilities and their uncertainty out.

    Each file is asked about a window of noise and has to give what the inferer gives; only then it gets its name. The
    bundle's metadata and ``inference.json`` and the settings that are fixed lie inside, in TorchScript as extra files,
    in ONNX as metadata properties of the same names.

    Args:
        network: segmenter and denoiser with their weights.
        inferer: its window, time steps, members, seed, weight of the segmenter and solver are fixed for good.
        bundle_root: folder of the bundle.
        output_dir: where to; made when it is not there.
        temperature: of the bundle's calibration.
        formats: ``"torchscript"``, ``"onnx"`` or both.
        overwrite: replace files that are there.

    Returns:
        the files.

    Raises:
        UserError: when a setting cannot be exported, a package is missing, or a file is there already.
    """
    folder = Path(output_dir)
    _check_formats(formats, folder, overwrite)
    ensemble = fixed_ensemble(network, inferer, temperature)
    image = torch.randn(
        1, network.denoiser.image_channels, *inferer.config.roi_size, generator=torch.Generator().manual_seed(0)
    )
    expected = python_answer(network, inferer, image, temperature)
    contents = _contents(Path(bundle_root), ensemble, inferer)
    folder.mkdir(parents=True, exist_ok=True)
    # a folder, not a file of another name: TorchScript writes the file's name into the file
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as unfinished:
        files = [Path(unfinished) / FILES[name] for name in formats]
        for name, file in zip(formats, files, strict=True):
            _WRITERS[name](ensemble, image, file, contents)
            found = _ANSWERS[name](file, image)
            if found is not None:
                _compare(file.name, found, expected)
        return [file.replace(folder / file.name) for file in files]


def fixed_ensemble(network: PDDDPM, inferer: PDDDPMInferer, temperature: float = 1.0) -> FixedEnsemble:
    """Return the network that answers one window as the inferer does, with the members' noise made here and now.

    Raises:
        UserError: when the inferer has a random or residual reverse step, or a solver that chooses its own steps.
    """
    config, chain = inferer.config, inferer.chain
    if chain.rule != "ddim" or chain.eta > 0:
        raise UserError(f"rule: found {config.rule}, expected DDIM with eta 0, which draws no noise; fix --rule#eta")
    if chain.residual != network.residual:
        raise UserError(
            f"training_process: found {config.training_process!r} in the inferer, expected that of network_def; set "
            "--training_process, which both use"
        )
    denoiser = network.denoiser
    solver = chain.solver or (denoiser.solver if isinstance(denoiser, ODEUNet) else "")
    if solver in ADAPTIVE_SOLVERS:
        raise UserError(f"solver: found '{solver}', which chooses its own steps; export with euler, midpoint or rk4")
    shape = (network.num_classes, *config.roi_size)
    noise = torch.stack([member_noise(config.seed, member, 0, shape) for member in range(config.members)])
    return FixedEnsemble(
        network, noise, chain.time_steps, config.presegmentation_weight, temperature, chain.solver, chain.solver_steps
    ).eval()


def python_answer(
    network: PDDDPM, inferer: PDDDPMInferer, image: torch.Tensor, temperature: float = 1.0
) -> list[torch.Tensor]:
    """Return what inference says about one window, (1, C, X, Y[, Z]): the tensors of ``OUTPUTS``, each (1, ...)."""
    data: dict[Any, Any] = {"pred": inferer(image, network)[0]}
    data = SplitOutputd("pred", num_classes=network.num_classes)(data)
    data = Uncertaintyd("pred", temperature=temperature)(data)
    return [data["pred" if name == "prob" else name][None] for name in OUTPUTS]


def _check_formats(formats: Sequence[str], folder: Path, overwrite: bool) -> None:
    if not formats or isinstance(formats, str) or not set(formats) <= set(FILES):
        raise UserError(f"formats: found {formats!r}, expected a list of {' and '.join(FILES)}; fix --formats")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise UserError(
            f"formats: onnx needs the package {' and '.join(missing)}; pip install {' '.join(missing)}, or give "
            "--formats \"['torchscript']\""
        )
    there = [folder / FILES[name] for name in formats if (folder / FILES[name]).exists()]
    if there and not overwrite:
        raise UserError(f"output_dir: {there[0]} is there already; give another --output_dir, or --overwrite True")


def _contents(bundle_root: Path, ensemble: FixedEnsemble, inferer: PDDDPMInferer) -> dict[str, Any]:
    """Return what goes into a file beside the network: name -> JSON value."""
    inside = {name: _read(bundle_root / "configs" / name) for name in ("metadata.json", "inference.json")}
    formats = inside["metadata.json"]["network_data_format"]
    maps, of_window = formats.get("post_processed_outputs", {}), {"spatial_shape": ensemble.window}
    inputs = {name: entry | of_window for name, entry in formats["inputs"].items()}
    outputs = {name: maps.get(name, {}) | of_window for name in OUTPUTS}
    settings = {key: value for key, value in inferer.config.as_report().items() if key not in _OF_VOLUMES}
    return inside | {
        "metadata.json": inside["metadata.json"] | {"network_data_format": {"inputs": inputs, "outputs": outputs}},
        "ensemble.json": settings
        | {
            "window": ensemble.window,
            "temperature": ensemble.temperature,
            "precision": "float32",
            "monai_pdddpm": __version__,
            "torch": torch.__version__,
        },
    }


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}), expected the bundle's own; fix --bundle_root") from error


def _write_torchscript(ensemble: FixedEnsemble, image: torch.Tensor, file: Path, contents: dict[str, Any]) -> None:
    try:
        scripted = torch.jit.script(ensemble)
    except Exception as error:  # torch raises many kinds for what TorchScript does not know
        raise UserError(
            f"formats: TorchScript does not take this network ({str(error).strip().splitlines()[0]}); give --formats "
            "\"['onnx']\", or a network_def without what it does not take, such as attention"
        ) from error
    others = {name: json.dumps(value).encode() for name, value in contents.items() if name != "metadata.json"}
    save_net_with_metadata(scripted, str(file), False, False, contents["metadata.json"], others)


def _write_onnx(ensemble: FixedEnsemble, image: torch.Tensor, file: Path, contents: dict[str, Any]) -> None:
    for name in ("onnx_ir", "onnxscript"):  # a line for each constant
        logging.getLogger(name).setLevel(logging.ERROR)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": list(OUTPUTS)}
    program: Any = torch.onnx.export(ensemble, (image,), dynamo=True, verbose=False, **names)
    program.model.metadata_props.update({name: json.dumps(value) for name, value in contents.items()})
    program.save(file)


def _ask_torchscript(file: Path, image: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(torch.jit.load(file)(image))


def _ask_onnx(file: Path, image: torch.Tensor) -> list[torch.Tensor] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        print(f"{file.name}: not compared with Python's answer, the package onnxruntime is not installed")
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(list(OUTPUTS), {"image": image.numpy()})]


def _compare(name: str, found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    largest = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    if not largest <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"{name}: its answer differs from Python's by {largest:.2g}, nothing was written")
    print(f"{name}: differs from Python's answer by at most {largest:.1e}")


_WRITERS = {"torchscript": _write_torchscript, "onnx": _write_onnx}
_ANSWERS = {"torchscript": _ask_torchscript, "onnx": _ask_onnx}
