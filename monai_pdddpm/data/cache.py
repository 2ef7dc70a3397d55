"""Training cases kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai.data import CacheDataset
from monai.data.utils import set_rnd
from torch.utils.data import RandomSampler

from monai_pdddpm.data.case import Case
from monai_pdddpm.data.dataset import explain_failure
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.seeds import hashed_seed


class WindowSampler(RandomSampler):
    """PyTorch's ``RandomSampler``; with replacement, each draw of an epoch has an index of its own.

    The draw at place i of the case c has the index c + i n, where n is the number of cases. So the windows that an
    epoch draws of one case differ, with the same indices in any process and worker.
    """

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of an epoch."""
        step = len(self.data_source) if self.replacement else 0
        return (case + place * step for place, case in enumerate(super().__iter__()))


class CachedDataset(CacheDataset):
    """MONAI's ``CacheDataset`` that reads its cases one after the other, without threads; ``num_workers`` is not used.

    When a case cannot be read, threads may still work on the next ones while Python ends, which can abort the process
    ("terminate called without an active exception", exit code 134) after the error was printed.

    After :meth:`seed_epoch`, the random transforms of a case depend only on that seed and on the index: not on the
    cases before it, the workers that read it, or the process. Each item then carries a ``"seed"`` for random numbers
    drawn later. An index is taken modulo the number of cases, so that repeated draws can differ, see `WindowSampler`.

    Raises:
        UserError: when a case cannot be read; the message names its file.
    """

    _epoch_seed: int | None = None

    def seed_epoch(self, seed: int) -> None:
        """Set the seed, 0 or more, from which the seeds of the cases are derived."""
        self._epoch_seed = seed

    def _transform(self, index: int) -> Any:
        case = index % len(self)
        if self._epoch_seed is None:
            return super()._transform(case)
        set_rnd(self.transform, hashed_seed(self._epoch_seed, index, 0))
        item = super()._transform(case)
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
