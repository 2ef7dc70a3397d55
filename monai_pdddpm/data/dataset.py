"""A data set that reports a case which cannot be read, instead of stopping the cases after it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from monai.data import Dataset, list_data_collate
from monai.transforms import LoadImage

from monai_pdddpm.data.datalist import case_file, case_name, check_case_name
from monai_pdddpm.data.headers import unreadable
from monai_pdddpm.data.scan_spec import ScanSpec, as_spec
from monai_pdddpm.data.scans import plan_scan
from monai_pdddpm.utils.errors import UserError, printable, user_message
from monai_pdddpm.utils.resource_errors import shortage

__all__ = ["CaseDataset", "CaseFailure", "case_collate", "explain_failure"]

logger = logging.getLogger(__name__)


class CaseFailure(TypedDict):
    """Why a case could not be read: the case's name, its file, and the error on one line."""

    case: str
    file: str
    error: str


class CaseDataset(Dataset):
    """Data set of cases for inference, in which one bad case does not stop the others.

    An item is what the transform returned, with ``item["seconds"] = {"read and preprocess": float}`` added; or, when
    anything was raised on the way, ``{"failure": CaseFailure}``.

    Args:
        data: cases, each a dictionary with the path of a scan, or a list with one for each channel, under ``image``.
        transform: transform or transforms that read and preprocess a case; they return one dictionary.
        spec: the scans expected.
        settings: fields of `ScanSpec`, in place of ``spec``.

    Raises:
        UserError: when a setting is not allowed.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Callable] | Callable | None = None,
        spec: ScanSpec | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(data, transform)
        self.spec = as_spec(spec, settings) if spec or settings else None

    def _transform(self, index: int) -> dict[str, Any]:
        image = self.data[index]["image"]
        path = case_file(image)
        start = time.perf_counter()
        try:
            check_case_name(image)
            if self.spec is not None:
                plan_scan(image, self.spec)
            item = dict(super()._transform(index))
        except Exception as error:
            logger.debug("%s could not be read", path, exc_info=error)
            reason = explain_failure(error, path)
            return {"failure": CaseFailure(case=printable(case_name(image)), file=printable(path), error=reason)}
        item["seconds"] = {"read and preprocess": time.perf_counter() - start}
        return item


def explain_failure(error: BaseException, path: str) -> str:
    """Say on one line what went wrong with a case."""
    message = user_message(error)
    if message is not None:
        return message
    lacking = shortage(path, error)
    if lacking is not None:
        return printable(lacking)
    while str(error).startswith("applying transform") and error.__cause__ is not None:
        error = error.__cause__  # MONAI wraps once for each level of Compose
    text = " ".join(str(error).split())
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    if LoadImage.__call__.__code__ in frames:
        return unreadable(path, error)
    return printable(f"unexpected {type(error).__name__}: {text}")


def case_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate one case of a `CaseDataset`, for a data loader with ``batch_size`` 1.

    Args:
        batch: one item.

    Returns:
        The item unchanged when it tells of a failure. Otherwise what MONAI's ``list_data_collate`` makes of it:
        tensors of shape (1, channels, spatial axes...), with ``seconds`` left as a list of dictionaries, which has to
        be taken out before the batch is decollated.

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
