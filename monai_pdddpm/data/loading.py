"""Loading a scan from whatever it is stored in."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, ITKReader, MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, LoadImage, LoadImaged, SpatialResample, Transform

from monai_pdddpm.data.datalist import case_name
from monai_pdddpm.data.dicom import SeriesReader
from monai_pdddpm.data.headers import NIFTI_EXTENSIONS, ScanHeader, unpacked_nifti, unreadable
from monai_pdddpm.data.scan_spec import ScanSpec, as_spec
from monai_pdddpm.data.scans import Image, ScanPlan, plan_scan
from monai_pdddpm.utils.errors import UserError

__all__ = ["LoadScan", "LoadScand"]

logger = logging.getLogger(__name__)


class LoadScan(Transform):
    """Load a scan as MONAI's ``LoadImage`` and ``EnsureChannelFirst`` do, and what they do not take.

    A scan is a file or a folder with one DICOM series, or a list with one for each channel; see
    :func:`monai_pdddpm.data.scans.plan_scan` for what may be in it. Axes of length 1 beside the spatial ones are of
    no account. Where MONAI would place the voxels elsewhere than the file says, the file is right: see
    :func:`monai_pdddpm.data.headers.read_header` and :func:`monai_pdddpm.data.dicom.read_series`.

    Of a list the first file that is there gives the grid and the metadata; files on another grid are resampled to it
    (bilinear, zeros outside). The metadata are MONAI's, and besides as JSON texts, which MONAI's collating leaves
    whole: ``notes``, a list of sentences on what a reader of the results should know, and ``files``, the list of files
    that were read, null for a channel of zeros. ``filename_or_obj`` is the path that names the case; a folder with a
    dot in its name gets ``.dcm`` after it, since MONAI's ``SaveImage`` would cut the name at the dot.

    Args:
        spec: the scans expected.
        settings: fields of `ScanSpec`, in place of ``spec``.

    Raises:
        UserError: when a setting is not allowed.
    """

    def __init__(self, spec: ScanSpec | None = None, **settings: Any) -> None:
        self.spec = as_spec(spec, settings)
        self.image_only = True  # MONAI Label sets it to False, and then wants the metadata beside the image
        self._load = _quietly(LoadImage)

    def __call__(self, filename: Image, reader: ImageReader | None = None) -> Any:
        """Load a scan.

        Args:
            filename: path, or list of paths.
            reader: not used.

        Returns:
            MetaTensor (channels or frames, spatial axes...), float32; beside its metadata when ``image_only`` is false.

        Raises:
            UserError: when the scan cannot be read or is not what was expected.
        """
        plan = plan_scan(filename, self.spec)
        image = self._stacked(plan)
        case = next(file for file in plan.files if file is not None)
        if os.path.isdir(case) and "." in case_name(case):
            case = f"{case}.dcm"
        image.meta |= {
            "filename_or_obj": case,
            "notes": json.dumps(plan.notes, ensure_ascii=False),
            "files": json.dumps(plan.files, ensure_ascii=False),
        }
        return image if self.image_only else (image, image.meta)

    def _stacked(self, plan: ScanPlan) -> MetaTensor:
        first: Any = None
        parts: list[torch.Tensor | None] = []
        for i, (file, header) in enumerate(zip(plan.files, plan.headers, strict=True)):
            if file is None or header is None:
                parts.append(None)
                continue
            image = self._read(file, header)
            if first is None:
                first = image
            elif i in plan.other_grids:
                send_to_rank0 = SpatialResample(mode="bilinear", padding_mode="zeros")
                image = send_to_rank0(image, dst_affine=first.affine, spatial_size=first.shape[1:])
            parts.append(image.as_tensor())
        if len(parts) == 1:
            return first
        zeros = torch.zeros_like(first.as_tensor())
        return MetaTensor(torch.cat([zeros if part is None else part for part in parts]), meta=first.meta)

    def _read(self, file: str, header: ScanHeader) -> Any:
        reader: ImageReader = ITKReader()
        if header.series is not None:
            reader = SeriesReader(header.series)
        elif file.lower().endswith(NIFTI_EXTENSIONS):
            reader = _NiftiReader()
        try:
            image = self._load(file, reader)
        except UserError:
            raise
        except Exception as error:
            raise UserError(unreadable(file, error)) from error
        if image.ndim > self.spec.spatial_dims + 1:  # all axes but one have length 1 there
            image = image.reshape(*image.shape[: self.spec.spatial_dims], -1)
        return EnsureChannelFirst()(image)


class LoadScand(LoadImaged):
    """`LoadScan` for entries of a dictionary, in the place of MONAI's ``LoadImaged`` and ``EnsureChannelFirstd``.

    It is a ``LoadImaged``, since MONAI Label looks for one.

    Args:
        keys: entries, each a path or a list of paths.
        spec: the scans expected.
        allow_missing_keys: skip keys that are missing.
        settings: fields of `ScanSpec`, in place of ``spec``.

    Raises:
        UserError: when a setting is not allowed, and on a call as `LoadScan`.
    """

    def __init__(
        self, keys: KeysCollection, spec: ScanSpec | None = None, allow_missing_keys: bool = False, **settings: Any
    ) -> None:
        _quietly(lambda: LoadImaged.__init__(self, keys, allow_missing_keys=allow_missing_keys))
        self._loader: Any = LoadScan(spec, **settings)

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Return the data with the scans loaded; a warning is logged for each note."""
        d = super().__call__(data, reader)
        for key in self.key_iterator(d):
            for note in json.loads(d[key].meta["notes"]):
                logger.warning("%s: %s", d[key].meta["filename_or_obj"], note)
        return d


def _quietly(make: Callable[[], Any]) -> Any:
    """Return ``make()`` without MONAI's word that DICOM is not decoded on a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        return make()


class _NiftiReader(NibabelReader):
    """MONAI's ``NibabelReader``, which leaves the header as it is, and notices damage in a compressed file.

    See `read_header` for the header, `unpacked_nifti` for the damage.
    """

    def read(self, data: Any, **kwargs: Any) -> Any:
        self.filenames = data
        return unpacked_nifti(data[0]) if data[0].lower().endswith(".gz") else nib.load(data[0])

    def _get_affine(self, img: Any) -> np.ndarray:
        return np.array(img.affine, dtype=np.float64)
