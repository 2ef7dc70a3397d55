"""Training cases kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data import CacheDataset

__all__ = ["CachedDataset"]


class CachedDataset(CacheDataset):
    """MONAI's ``CacheDataset``, which reads its cases one after the other, without threads.

    MONAI reads them in a pool of threads. When a case cannot be read, the pool's threads are still at work on the next
    ones while Python ends, and now and then that aborts the process ("terminate called without an active exception",
    exit code 134) after the error was told. Arguments are MONAI's; ``num_workers`` has no use.
    """

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        return [self._load_cache_item(index) for index in (range(self.cache_num) if indices is None else indices)]
