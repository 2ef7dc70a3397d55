"""The loader of scans of any supported format."""

from __future__ import annotations

import gzip
import logging
import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, ITKReader, MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, LoadImage, LoadImaged, SpatialResample, Transform
from torch.utils.data._utils.collate import default_collate_fn_map  # the map that torch documents for own types

from monai_pdddpm.data.case import Case, Image, case_of
from monai_pdddpm.data.dicom_pixels import SeriesReader
from monai_pdddpm.data.headers import NIFTI_EXTENSIONS, ScanHeader, unreadable
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.data.scans import plan_scan
from monai_pdddpm.utils.errors import UserError

logger = logging.getLogger(__name__)


def _collate(batch: Sequence[Case], *, collate_fn_map: Any = None) -> list[Case]:
    return list(batch)


default_collate_fn_map[Case] = _collate  # type: ignore[index]


class LoadScan(Transform):
    """Load a scan as MONAI's ``LoadImage`` and ``EnsureChannelFirst`` do, with checks and further forms of input.

    A scan is a file or a folder with one DICOM series, or a list with one for each channel; see
    :func:`monai_pdddpm.data.scans.plan_scan`. Axes of length 1 beside the spatial ones are dropped. Where MONAI places
    the voxels elsewhere than the file, the file counts: see :func:`monai_pdddpm.data.headers.read_header` and
    :func:`monai_pdddpm.data.dicom.read_series`.

    In a list, the first file that exists gives the grid and the metadata; files on another grid are resampled to it
    (bilinear, zeros outside). The metadata are MONAI's, and ``case``, the `Case` with its files and notes;
    ``filename_or_obj`` is the path that names the case, and ``original_channel_dim`` is 0.

    Args:
        spec: the scans expected.
        settings: fields of `ScanSpec` in which the scans differ from ``spec``.

    Raises:
        UserError: when a setting is not allowed.
    """

    def __init__(self, spec: ScanSpec | None = None, **settings: Any) -> None:
        self.spec = replace(spec or ScanSpec(), **settings)
        self.image_only = True  # MONAI Label sets it to False to get the metadata beside the image
        self._load = _quietly(LoadImage)

    def __call__(self, filename: Image, reader: ImageReader | None = None) -> Any:
        """Load a scan.

        Args:
            filename: path, or list of paths.
            reader: not used.

        Returns:
            MetaTensor (channels or frames, spatial axes...), float32; beside its metadata when ``image_only`` is false.

        Raises:
            UserError: when the scan cannot be read or is not as expected.
        """
        plan = plan_scan(filename, self.spec)
        case = plan.case
        notes = list(case.notes)
        first: Any = None
        parts: list[torch.Tensor | None] = []
        for i, (file, header) in enumerate(zip(case.files, plan.headers, strict=True)):
            if file is None or header is None:
                parts.append(None)
                continue
            image, found = self._read(file, header)
            notes += found if len(case.files) == 1 else [f"{self.spec.channel_label(i)}: {note}" for note in found]
            if first is None:
                first = image
            elif i in plan.other_grids:
                resample = SpatialResample(mode="bilinear", padding_mode="zeros")
                image = resample(image, dst_affine=first.affine, spatial_size=first.shape[1:])
            parts.append(image.as_tensor())
        if len(parts) > 1:
            zeros = torch.zeros_like(first.as_tensor())
            stacked = torch.cat([zeros if part is None else part for part in parts])
            first = MetaTensor(stacked, meta=first.meta)
        case = replace(case, notes=tuple(notes))
        first.meta |= {"filename_or_obj": case.file, "case": case, "original_channel_dim": 0}
        return first if self.image_only else (first, first.meta)

    def _read(self, file: str, header: ScanHeader) -> tuple[Any, tuple[str, ...]]:
        """Return the voxels of a file, channels first, and notes on them."""
        reader: _NiftiReader | SeriesReader | ITKReader = ITKReader()
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
        if image.ndim > self.spec.spatial_dims + 1:  # all axes but one have length 1
            image = image.reshape(*image.shape[: self.spec.spatial_dims], -1)
        return EnsureChannelFirst()(image), () if isinstance(reader, ITKReader) else reader.notes


class LoadImageScand(LoadImaged):
    """`LoadScan` for entries of a dictionary, in place of MONAI's ``LoadImaged`` and ``EnsureChannelFirstd``.

    It is a ``LoadImaged``, which MONAI Label and MONAI Deploy look for. The key ``subject`` of a data list moves into
    the `Case`.

    Args:
        keys: entries, each a path or a list of paths.
        spec: the scans expected.
        allow_missing_keys: skip keys that are missing.
        settings: fields of `ScanSpec` in which the scans differ from ``spec``.

    Raises:
        UserError: when a setting is not allowed, and on a call as `LoadScan`.
    """

    def __init__(
        self, keys: KeysCollection, spec: ScanSpec | None = None, allow_missing_keys: bool = False, **settings: Any
    ) -> None:
        _quietly(lambda: LoadImaged.__init__(self, keys, allow_missing_keys=allow_missing_keys))
        self._loader: Any = LoadScan(spec, **settings)

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Return the data with the scans loaded; each note is logged as a warning."""
        d = super().__call__(data, reader)
        subject = d.pop("subject", "")
        for key in self.key_iterator(d):
            d[key].meta["case"] = case = replace(case_of(d[key].meta), subject=subject)
            for note in case.notes:
                logger.warning("%s: %s", d[key].meta["filename_or_obj"], note)
        return d


class _NiftiReader(NibabelReader):
    """MONAI's ``NibabelReader`` that keeps the header unchanged and notices damaged files.

    nibabel stops reading before the checksum of a compressed file, and ignores what lies behind the voxels.
    """

    notes: tuple[str, ...] = ()

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Return a NIfTI image.

        Raises:
            UserError: when the file is shorter, or at least a slice longer, than its header states.
            Exception: of many kinds, when it is damaged.
        """
        self.filenames = data
        path = Path(data[0])
        image: Any = nib.load(path)
        size = math.prod(image.shape) * image.get_data_dtype().itemsize
        expected, spare = int(image.dataobj.offset) + size, max(1, size // max((*image.shape, 1)))
        packed = path.name.lower().endswith(".gz")
        if packed:
            with gzip.open(path) as file:
                content = file.read(expected + spare)  # a file that holds less is read to its checksum
        found = len(content) if packed else path.stat().st_size
        if found < expected:
            raise UserError(
                f"{path}: cut short, found {found} bytes of data, expected {expected}; copy or download it again"
            )
        if found >= expected + spare:
            raise UserError(
                f"{path}: found at least a slice of data more than its header describes, expected {expected} bytes; "
                "export or convert it again"
            )
        if found > expected:
            self.notes = (f"{found - expected} bytes more than its header describes were ignored",)
        return type(image).from_bytes(content) if packed else image

    def _get_affine(self, img: Any) -> np.ndarray:
        return np.array(img.affine, dtype=np.float64)


def _quietly(make: Callable[[], Any]) -> Any:
    """Return ``make()`` without MONAI's warnings that DICOM is not decoded on a GPU."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        return make()
