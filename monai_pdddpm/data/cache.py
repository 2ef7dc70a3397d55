"""Training cases kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data import CacheDataset
from monai.data.utils import set_rnd

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.dataset import explain_failure
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.seeds import hashed_seed


class CachedDataset(CacheDataset):
    """MONAI's ``CacheDataset`` that reads its cases one after the other, without threads; ``num_workers`` is not used.

    When a case cannot be read, threads may still work on the next ones while Python ends, which can abort the process
    ("terminate called without an active exception", exit code 134) after the error was printed.

    After :meth:`seed_epoch`, the random transforms of a case depend only on that seed and on its place in the list: not
    on the cases before it, the workers that read it, or the process. Each item then carries a ``"seed"`` for random
    numbers drawn later.

    Raises:
        UserError: when a case cannot be read; the message names its file.
    """

    _epoch_seed: int | None = None

    def seed_epoch(self, seed: int) -> None:
        """Set the seed, 0 or more, from which the seeds of the cases are derived."""
        self._epoch_seed = seed

    def _transform(self, index: int) -> Any:
        if self._epoch_seed is None:
            return super()._transform(index)
        set_rnd(self.transform, hashed_seed(self._epoch_seed, index, 0))
        item = super()._transform(index)
        crops = item if isinstance(item, list) else [item]
        seeded = [{**crop, "seed": hashed_seed(self._epoch_seed, index, i + 1)} for i, crop in enumerate(crops)]
        return seeded if isinstance(item, list) else seeded[0]

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        return [self._read(index) for index in (range(self.cache_num) if indices is None else indices)]

    def _read(self, index: int) -> Any:
        try:
            return self._load_cache_item(index)
        except Exception as error:
            files = [Case.of(self.data[index][key]).file for key in ("image", "label") if key in self.data[index]]
            case = " with ".join(files)
            reason = explain_failure(error, case)
            raise UserError(reason if any(file in reason for file in files) else f"{case}: {reason}") from error
