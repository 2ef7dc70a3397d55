"""Export of a bundle's ensemble for one window to TorchScript and ONNX."""

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
from monai_pdddpm.data.dataset_json import read_json
from monai_pdddpm.inferers import EnsembleOutput, PDDDPMInferer
from monai_pdddpm.inferers.noise import MemberNoise
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.fixed_ensemble import OUTPUTS, FixedEnsemble
from monai_pdddpm.transforms.outputs import uncertainty_maps
from monai_pdddpm.utils.errors import UserError

FILES = {"torchscript": "ensemble.ts", "onnx": "ensemble.onnx"}
LARGEST_DIFFERENCE = 1e-3
# settings that have no meaning within one window
_OF_VOLUMES = ("overlap", "windows", "uncertainty_threshold", "dilation", "precision", "roi_size")


def export_ensemble(
    network: PDDDPM,
    inferer: PDDDPMInferer,
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    temperature: float = 1.0,
    formats: Sequence[str] = tuple(FILES),
    overwrite: bool = False,
) -> list[Path]:
    """Write ``ensemble.ts`` and ``ensemble.onnx``, which map an image window to probabilities and uncertainty maps.

    A file appears only if its output for a window of noise equals that of the inferer. It contains the bundle's
    metadata and ``inference.json`` and the fixed settings: as extra files in TorchScript, as metadata properties of the
    same names in ONNX.

    Args:
        network: segmenter and denoiser with their weights.
        inferer: its window, time steps, members, seed, segmenter's weight and solver are fixed.
        bundle_root: folder of the bundle.
        output_dir: folder of the files, made if missing.
        temperature: temperature of the bundle's calibration.
        formats: ``"torchscript"``, ``"onnx"`` or both.
        overwrite: replace existing files.

    Raises:
        UserError: if a setting cannot be exported, a package is missing, or a file exists.
        RuntimeError: if a file's output differs from that of the inferer.
    """
    folder = Path(output_dir)
    _check_formats(formats, folder, overwrite)
    ensemble = fixed_ensemble(network, inferer, temperature)
    shape = (1, network.denoiser.image_channels, *inferer.config.roi_size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    statistics = inferer(image, network)[0][: 4 * network.num_classes]
    maps = uncertainty_maps(EnsembleOutput(network.num_classes).split(statistics), temperature)
    expected = [maps[name][None] for name in OUTPUTS]
    contents = _contents(Path(bundle_root), ensemble, inferer)
    folder.mkdir(parents=True, exist_ok=True)
    # a temporary folder instead of a temporary name, because TorchScript stores the file's name
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as unfinished:
        files = [Path(unfinished) / FILES[name] for name in formats]
        for name, file in zip(formats, files, strict=True):
            write, run = (_write_onnx, _run_onnx) if name == "onnx" else (_write_torchscript, _run_torchscript)
            write(ensemble, image, file, contents)
            largest = max(float((a - b).abs().max()) for a, b in zip(run(file, image), expected, strict=True))
            if not largest <= LARGEST_DIFFERENCE:
                raise RuntimeError(f"{file.name}: its output differs from the inferer's by {largest:.2g}; not written")
            print(f"{file.name}: differs from the inferer's output by at most {largest:.1e}")
        written = [file.replace(folder / file.name) for file in files]
    print(*written, sep="\n")
    return written


def fixed_ensemble(network: PDDDPM, inferer: PDDDPMInferer, temperature: float = 1.0) -> FixedEnsemble:
    """Return the network that computes one window like the inferer, with the noise of the inferer's members.

    Raises:
        UserError: if the inferer's rule is stochastic.
    """
    config, chain = inferer.config, inferer.chain
    if chain.eta > 0:
        raise UserError(f"rule: found {config.rule}, expected DDIM with eta 0 (no noise); fix --inferer#rule#eta")
    shape = (network.num_classes, *config.roi_size)
    fields = (config.large_scale_noise, config.noise_length)
    noise = torch.stack([MemberNoise(config.seed, member, shape).start(*fields) for member in range(config.members)])
    return FixedEnsemble(
        network, noise, chain.time_steps, config.presegmentation_weight, temperature, chain.solver, chain.solver_steps
    ).eval()


def _check_formats(formats: Sequence[str], folder: Path, overwrite: bool) -> None:
    if not formats or isinstance(formats, str) or not set(formats) <= set(FILES):
        raise UserError(f"formats: found {formats!r}, expected a list of {' and '.join(FILES)}; fix --formats")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise UserError(
            f"formats: found onnx without {' and '.join(missing)}; pip install {' '.join(missing)}, or give "
            "--formats \"['torchscript']\""
        )
    there = [folder / FILES[name] for name in formats if (folder / FILES[name]).exists()]
    if there and not overwrite:
        raise UserError(f"output_dir: found the file {there[0]}; give another --output_dir, or --overwrite True")


def _contents(bundle_root: Path, ensemble: FixedEnsemble, inferer: PDDDPMInferer) -> dict[str, Any]:
    """Return the JSON values that are stored beside the network, by name."""
    inside = {name: read_json(bundle_root / "configs" / name) for name in ("metadata.json", "inference.json")}
    formats = inside["metadata.json"]["network_data_format"]
    maps, of_window = formats.get("post_processed_outputs", {}), {"spatial_shape": ensemble.window}
    inputs = {name: entry | of_window for name, entry in formats["inputs"].items()}
    outputs = {name: maps.get(name, {}) | of_window for name in OUTPUTS}
    settings = {key: value for key, value in inferer.config.as_report().items() if key not in _OF_VOLUMES}
    return inside | {
        "metadata.json": inside["metadata.json"] | {"network_data_format": {"inputs": inputs, "outputs": outputs}},
        "ensemble.json": settings
        | {"window": ensemble.window, "temperature": ensemble.temperature, "precision": "float32"}
        | {"monai_pdddpm": __version__, "torch": torch.__version__},
    }


def _write_torchscript(ensemble: FixedEnsemble, image: torch.Tensor, file: Path, contents: dict[str, Any]) -> None:
    try:
        scripted = torch.jit.script(ensemble)
    except Exception as error:  # torch raises many kinds for unsupported code
        raise UserError(
            f"formats: found torchscript, which cannot express this network ({str(error).strip().splitlines()[0]}); "
            "give --formats \"['onnx']\""
        ) from error
    others = {name: json.dumps(value).encode() for name, value in contents.items() if name != "metadata.json"}
    save_net_with_metadata(scripted, str(file), False, False, contents["metadata.json"], others)


def _write_onnx(ensemble: FixedEnsemble, image: torch.Tensor, file: Path, contents: dict[str, Any]) -> None:
    for name in ("onnx_ir", "onnxscript"):  # these log a line for each constant
        logging.getLogger(name).setLevel(logging.ERROR)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": list(OUTPUTS)}
    program: Any = torch.onnx.export(ensemble, (image,), dynamo=True, verbose=False, **names)
    program.model.metadata_props.update({name: json.dumps(value) for name, value in contents.items()})
    program.save(file)


def _run_torchscript(file: Path, image: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(torch.jit.load(file)(image))


def _run_onnx(file: Path, image: torch.Tensor) -> list[torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(list(OUTPUTS), {"image": image.numpy()})]
