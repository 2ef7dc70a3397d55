"""Objects in the metadata of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch.utils.data._utils.collate import default_collate_fn_map  # the map that torch documents for own types

__all__ = ["MetaObject"]

T = TypeVar("T", bound="MetaObject")


class MetaObject:
    """Base class of frozen dataclasses that stay whole in ``MetaTensor.meta``.

    torch's collate function lists those of a batch, and MONAI's ``decollate_batch`` takes each out of the list again.
    """

    ndim = 0  # with `item`, marks a scalar for `decollate_batch`

    def item(self: T) -> T:
        """Return the object itself."""
        return self


def _collate(batch: Sequence[MetaObject], *, collate_fn_map: Any = None) -> list[MetaObject]:
    return list(batch)


default_collate_fn_map[MetaObject] = _collate  # type: ignore[index]
