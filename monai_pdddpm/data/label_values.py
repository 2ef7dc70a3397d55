"""Writing label maps with the values that the data set's own label maps have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import DtypeLike, NdarrayOrTensor

from monai_pdddpm.data.writer import GridWriter

__all__ = ["LabelValueWriter"]


class LabelValueWriter(GridWriter):
    """`GridWriter` that puts a data set's own label values in the place of the classes 0, 1, 2, ...

    Arrays of whole numbers are label maps and are changed; probabilities and other maps are written as they are. The
    inverse is :class:`monai_pdddpm.transforms.LabelValuesd`, at loading.

    Args:
        output_dtype: as `GridWriter`.
        labels: names of the classes by their number; kept in the header by value.
        values: the value in the file of class 0, 1, 2, ...
        kwargs: as `GridWriter`.
    """

    def __init__(
        self,
        output_dtype: DtypeLike = np.float32,
        labels: Mapping[str, str] | None = None,
        values: Sequence[int] = (0, 1),
        **kwargs: Any,
    ) -> None:
        named = None if labels is None else {str(values[int(index)]): name for index, name in labels.items()}
        super().__init__(output_dtype=output_dtype, labels=named, **kwargs)
        self.values = np.asarray(values, dtype=np.int32)

    def set_data_array(self, data_array: NdarrayOrTensor, *args: Any, **kwargs: Any) -> None:
        """Take an array as `GridWriter` does, label maps with their values changed."""
        plain = data_array.cpu().numpy() if isinstance(data_array, torch.Tensor) else np.asarray(data_array)
        super().set_data_array(self.values[plain] if plain.dtype.kind in "iu" else data_array, *args, **kwargs)
