"""A data set in which an unreadable case does not stop the cases after it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence
from typing import Any, TypedDict

from monai.data import Dataset, MetaTensor, list_data_collate
from monai.transforms import LoadImage
from monai.utils import TraceKeys

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.headers import unreadable
from monai_pdddpm.utils.errors import UserError, printable, resource_message, user_message

logger = logging.getLogger(__name__)


class CaseFailure(TypedDict):
    """The reason why a case could not be processed: its name, its file, and the error on one line."""

    case: str
    file: str
    error: str


class CaseDataset(Dataset):
    """Data set of cases for inference that returns failures instead of raising them.

    An item is the transform's result with ``item["seconds"] = {"read and preprocess": float}`` added; or, when
    anything was raised, ``{"failure": CaseFailure}``. Its transforms can be inverted with any start method of the
    data loader's workers.

    Args:
        data: cases, each a dictionary with the path of a scan, or a list with one for each channel, under ``image``.
        transform: transforms that read and preprocess a case; they return one dictionary.
    """

    def _transform(self, index: int) -> dict[str, Any]:
        case = Case.of(self.data[index]["image"])
        start = time.perf_counter()
        try:
            case.check_name()
            item = dict(super()._transform(index))
        except Exception as error:
            logger.debug("%s could not be read", case.file, exc_info=error)
            reason = explain_failure(error, case.file)
            return {"failure": CaseFailure(case=printable(case.name), file=printable(case.file), error=reason)}
        for image in item.values():
            if isinstance(image, MetaTensor):
                for operation in image.applied_operations:
                    operation[TraceKeys.ID] = TraceKeys.NONE  # a worker's copy of a transform has another id
        item["seconds"] = {"read and preprocess": time.perf_counter() - start}
        return item


def explain_failure(error: BaseException, path: str) -> str:
    """Return one line on the failure of a case, whose file is ``path``."""
    if message := user_message(error):
        return message
    if exhausted := resource_message(path, error):
        return printable(exhausted)
    while str(error).startswith("applying transform") and error.__cause__ is not None:
        error = error.__cause__  # MONAI wraps once for each level of Compose
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    if LoadImage.__call__.__code__ in frames:
        return unreadable(path, error)
    return printable(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")


def case_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate one case of a `CaseDataset`, for a data loader with ``batch_size`` 1; a failure stays unchanged.

    The result is that of ``list_data_collate``; ``seconds`` is a list, to be removed before the batch is decollated.

    Raises:
        UserError: when there is more than one item: scans differ in shape.
    """
    if len(batch) != 1:
        raise UserError(f"batch_size: found {len(batch)}, expected 1 since scans differ in shape; set it to 1")
    (item,) = batch
    if "failure" in item:
        return item
    collated = list_data_collate([{key: value for key, value in item.items() if key != "seconds"}])
    if "seconds" in item:
        collated["seconds"] = [item["seconds"]]
    return collated
