"""Active learning: score each scan by the disagreement of its members, and select the scan with the highest score."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.random import Random

from monai_pdddpm.utils.errors import user_message
from pdddpm_label.inference import OPTIONS, Segmentation
from pdddpm_label.scoring import member_disagreement

logger = logging.getLogger(__name__)
_FAILED = -1.0  # below all scores


class DisagreementScoring(ScoringMethod):
    """Score scans without a label; score them again when the model or the settings change.

    Args:
        task: computes the segmentation.
        key: name of the score in the datastore.
    """

    def __init__(self, task: Segmentation, key: str) -> None:
        super().__init__("1 - agreement of the members, and 1 more for a scan outside the usual range")
        self.task = task
        self.key = key

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what has no score by this model with these settings; return how many scans were scored."""
        start = time.time()
        model = self.task.get_path()
        if model is None:
            return {"total": 0, "executed": 0, "note": "no scores before the first training"}
        datastore.refresh()
        settings = {key: self.task.config()[key] for key in OPTIONS}
        version = json.dumps([os.stat(model).st_mtime, settings])
        images = datastore.get_unlabeled_images()
        pending = [image for image in images if datastore.get_image_info(image).get(f"{self.key}_of") != version]
        for image in pending:
            try:
                _, data = self.task({"image": datastore.get_image_uri(image), "skip_writer": True, **settings})
                found = {self.key: round(member_disagreement(data["result"]), 5), f"{self.key}_note": ""}
            except Exception as error:  # one bad scan does not stop the others
                if (message := user_message(error)) is None:
                    logger.exception(f"{image} was not scored")
                    continue
                found = {self.key: _FAILED, f"{self.key}_note": message}
            logger.info(f"{self.key} of {image}: {found}")
            datastore.refresh()  # the server writes into the same file
            datastore.update_image_info(image, {**found, f"{self.key}_of": version})
        return {"total": len(images), "executed": len(pending), "seconds": round(time.time() - start, 1)}


class LargestDisagreement(Epistemic):
    """Select the scan with the highest score among those that were not selected within a day; before any, at random.

    Args:
        key: name of the score in the datastore.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key=key, desc="The scan on which the members of the ensemble agree least")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``id`` and ``score`` of the selected scan; the score is None if it was not computed yet."""
        datastore.refresh()  # another process writes the scores
        if not any(self.key in datastore.get_image_info(image) for image in datastore.get_unlabeled_images()):
            return Random()(request, datastore)
        found = super().__call__(request, datastore)
        return found and {"id": found["id"], "score": datastore.get_image_info(found["id"]).get(self.key)}
