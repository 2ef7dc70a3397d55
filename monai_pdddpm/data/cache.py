"""Training cases kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data import CacheDataset

from monai_pdddpm.data.datalist import case_file
from monai_pdddpm.data.dataset import explain_failure
from monai_pdddpm.errors import UserError

__all__ = ["CachedDataset"]


class CachedDataset(CacheDataset):
    """MONAI's ``CacheDataset``, which reads its cases one after the other, without threads.

    MONAI reads them in a pool of threads. When a case cannot be read, the pool's threads are still at work on the next
    ones while Python ends, and now and then that aborts the process ("terminate called without an active exception",
    exit code 134) after the error was told. Arguments are MONAI's; ``num_workers`` has no use.

    Raises:
        UserError: when a case cannot be read; the message names its file.
    """

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        return [self._read(index) for index in (range(self.cache_num) if indices is None else indices)]

    def _read(self, index: int) -> Any:
        try:
            return self._load_cache_item(index)
        except Exception as error:
            case = self.data[index]
            image = case_file(case["image"])
            files = " with ".join([image, *(str(case[key]) for key in ("label",) if key in case)])
            reason = explain_failure(error, files)
            raise UserError(reason if image in reason else f"{files}: {reason}") from error
