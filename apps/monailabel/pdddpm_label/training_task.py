"""Training task: fine-tune a bundle on the submitted labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monai_pdddpm.utils.checks import check_number
from pdddpm_label.annotations import check_annotations, read_pairs
from pdddpm_label.bundles import bundle_labels
from pdddpm_label.fine_tuning import STAGES, fine_tune, hold_out


class Training(TrainTask):
    """Train a bundle on the submitted labels; see `pdddpm_label.fine_tuning.fine_tune`.

    Args:
        path: folder of the bundle.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("Train on the submitted labels; the old model stays in use if the new one is worse")
        self.path = Path(path)

    def config(self) -> dict[str, Any]:
        """Return the options that a viewer offers, with their defaults; the first training trains both networks."""
        first = not (self.path / "models" / "model.pt").is_file()
        return {
            "stage": ["both"] if first else list(STAGES),
            "max_epochs": 200 if first else 20,
            "learning_rate": 0.001 if first else 0.0001,
            "val_split": 0.2,
            "pretrained": not first,
            "device": device_list(),
        }

    def stats(self) -> dict[str, Any]:
        """Return the outcome of the last training, with the fields that 3D Slicer shows."""
        outcomes = sorted(self.path.glob("runs/label_server/*/outcome.json"))
        return json.loads(outcomes[-1].read_text(encoding="utf-8")) if outcomes else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train on all labels with the tag ``final``; return the outcome."""
        options = {**self.config(), **{key: request[key] for key in self.config() if request.get(key) is not None}}
        for key in ("stage", "device"):  # a list until the user has chosen
            options[key] = options[key][0] if isinstance(options[key], list) else options[key]
        if not self.config()["pretrained"]:
            options |= {"stage": "both", "pretrained": False}  # there is nothing to start from
        check_number("learning_rate", options["learning_rate"], 1e-8, 1)
        options["device"] = name_to_device(options["device"])
        pairs = read_pairs(datastore)
        config = json.loads((self.path / "configs" / "train.json").read_text(encoding="utf-8"))
        training, validation = hold_out(pairs, options.pop("val_split"), config.get("scans_per_subject", 1))
        check_annotations(pairs, bundle_labels(self.path))
        outcome = fine_tune(self.path, training, validation, **options)
        print(outcome["message"], flush=True)
        return outcome
