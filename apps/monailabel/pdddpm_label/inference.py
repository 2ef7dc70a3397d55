"""Inference tasks: a bundle's label map, and its entropy as a label map."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask

from monai_pdddpm.bundle import load_network
from monai_pdddpm.data.headers import read_header
from monai_pdddpm.transforms import SaveImageMapsd
from monai_pdddpm.utils.checks import check_choice, check_range
from monai_pdddpm.utils.errors import UserError
from pdddpm_label.bundles import bundle_labels
from pdddpm_label.levels import EntropyLevelsd, level_names

OPTIONS = {"members": (1, None), "num_steps": (1, None), "seed": (0, 2**63 - 1)}  # of a request, with their ranges
MAPS = ("entropy", "mutual_information")


def _checked(options: Mapping[str, int]) -> Mapping[str, int]:
    for key, value in options.items():
        check_range(key, value, *OPTIONS[key])
    return options


class _Present(BundleConstants):
    """A file that each bundle has in place of the weights, without which MONAI Label leaves a bundle out."""

    def model_pytorch(self) -> str:
        return "../configs/metadata.json"


class Segmentation(BundleInferTask):
    """Answer with a bundle's label map and its volumes.

    A request with ``maps``, a folder, also saves the uncertainty maps there as NIfTI files. A bundle without weights
    refuses requests until its first training.

    Args:
        path: folder of the bundle.
        conf: configuration of the server; it may set members, num_steps and seed.
    """

    maps: str | None = None

    def __init__(self, path: Path, conf: Mapping[str, str]) -> None:
        super().__init__(str(path), conf, const=_Present())
        self.path = [str(Path(path) / "models" / "model.pt")]
        self._config["model_filename"] = self._config["model_filename"] or ["model.pt"]
        own = json.loads(Path(self.bundle_config_path).read_text(encoding="utf-8"))
        self._config.update(_checked({key: int(conf.get(key, own[key])) for key in OPTIONS}))
        self.series = own["scan"]["fourth_dimension"] == "time"
        self.classes = bundle_labels(path)

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> Any:
        """Answer a request; see MONAI Label's ``BasicInferTask``.

        Raises:
            UserError: when a setting is out of range or the scan is a time series.
        """
        chosen = _checked({key: request.get(key, self._config[key]) for key in OPTIONS})
        image = request.get("image")
        if self.series and isinstance(image, str) and (frames := prod(read_header(image).extra)) > 1:
            raise UserError(
                f"{image}: found {frames} frames, expected one scan, because MONAI Label has no label maps of time "
                "series; segment it with monai.bundle, or serve each frame as a file"
            )
        # requests run in threads and have settings of their own; they share the networks
        task = copy.copy(self)
        task.maps = request.get("maps")
        task.bundle_config = ConfigParser()
        task.bundle_config.read_config(self.bundle_config_path)
        task.bundle_config.config.update({**chosen, "bundle_root": self.bundle_path, "output_dir": str(task.maps)})
        return BundleInferTask.__call__(task, request, callbacks)

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> torch.nn.Module:
        """Load each file of the bundle once per device; MONAI Label would load any file that a request names."""
        files = self._config["model_filename"]
        chosen = (data or {}).get("model_filename") or files
        name = chosen if isinstance(chosen, str) else chosen[0]
        check_choice("model_filename", name, files)
        file = Path(self.bundle_path) / "models" / name
        if not file.is_file():
            raise UserError(f"{file}: found no weights, expected a trained model; submit labels of 2 scans, then train")
        state = (name, file.stat().st_mtime)
        network, loaded = self._networks.get(device, (None, None))
        if loaded != state:
            network = load_network(copy.deepcopy(self.network), file, device)
            self._networks[device] = (network, state)
        return network

    def _filter_transforms(self, transforms: Sequence[Any] | None, filters: Any) -> list[Any]:
        """Save the uncertainty maps where maps are wanted, and nothing else; MONAI Label would save nothing."""
        kept = [transform for transform in transforms or [] if self.maps or not isinstance(transform, SaveImaged)]
        for transform in kept:
            if isinstance(transform, SaveImageMapsd):
                transform.keys = MAPS
        return kept


class Uncertainty(Segmentation):
    """Answer with the entropy in four levels, as a label map that a viewer shows."""

    def __init__(self, path: Path, conf: Mapping[str, str]) -> None:
        super().__init__(path, conf)
        self.labels = level_names()
        self.description = "Entropy of the segmentation, as a fraction of the largest possible entropy"

    def post_transforms(self, data: Any = None) -> list[Any]:
        """Replace the classes by the levels, before the last transform restores the shape of the scan."""
        *before, restore = super().post_transforms(data)
        return [*before, EntropyLevelsd("pred", num_classes=len(self.classes)), restore]
