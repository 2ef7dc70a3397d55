"""Files for viewers, of label maps that carry a data set's own values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.handlers.viewer_files import ViewerFiles


class LabelValueFiles(ViewerFiles):
    """`ViewerFiles` beside label maps that :class:`monai_pdddpm.data.LabelValueWriter` wrote.

    Args:
        output_dir: as `ViewerFiles`.
        labels: names of the classes by their number.
        values: the value in the files of class 0, 1, 2, ...
        kwargs: as `ViewerFiles`.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], labels: Mapping[str, str], values: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(output_dir, {str(values[int(index)]): name for index, name in labels.items()}, **kwargs)
        self.values = torch.tensor(values)

    def __call__(self, engine: CaseEvaluator) -> None:
        """Write the files of each item of the engine's output, which itself stays as it is."""
        output = engine.state.output
        engine.state.output = [item | {"seg": self._valued(item["seg"])} for item in output]
        try:
            super().__call__(engine)
        finally:
            engine.state.output = output

    def _valued(self, seg: torch.Tensor) -> torch.Tensor:
        valued = seg.clone()
        valued[...] = self.values.to(seg.device)[torch.as_tensor(seg).long()].to(seg.dtype)
        return valued
