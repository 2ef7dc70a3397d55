"""Writing results as NIfTI on the very grid of the scan that they belong to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import DtypeLike, NdarrayOrTensor, PathLike
from monai.data import NibabelWriter
from monai.utils import convert_data_type, get_equivalent_dtype

from monai_pdddpm import __version__
from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

__all__ = ["GridWriter"]

# header fields that place a grid in space; pixdim is handled by itself
_PLACE = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_COMPRESSION = 6  # of 9: label maps get half as large as at 1 for a few ms, 9 takes ten times as long on them
_MILLIMETRES = 2


class GridWriter(NibabelWriter):
    """Writer for MONAI's ``SaveImaged``: NIfTI with the geometry of the source file, field by field.

    Where the source is NIfTI and the array lies on its grid, sform, qform, their codes, units and voxel sizes are the
    source's own, read again from the file: MONAI may have changed them on loading (of 4D files it overwrites the time
    step). If the file is gone, they come from the metadata. For other sources, or an array on another grid, sform and
    qform are both set from the array's affine, with code 1, in mm.

    Files appear under their name only when they are complete. Equal arrays give equal files, bit by bit. In JSON::

        "writer": "monai_pdddpm.data.GridWriter", "resample": false
        "writer": {"_target_": "monai_pdddpm.data.GridWriter", "_mode_": "callable", "labels": {"1": "lesion"}}

    Args:
        output_dtype: type of the voxels in the file; None takes the smallest unsigned type for arrays of integers
            or booleans, and float32 for all others.
        labels: names of the classes by label value, kept in the header as a comment ``{"labels": {...}}`` in JSON.
        kwargs: further options of MONAI's writers, not used.
    """

    def __init__(
        self, output_dtype: DtypeLike = np.float32, labels: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.labels = labels
        self.header: nib.Nifti1Header | None = None

    def set_data_array(
        self,
        data_array: NdarrayOrTensor,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,
        **kwargs: Any,
    ) -> None:
        """Take an array and put its channels last.

        Args:
            data_array: (C, X, Y, Z); written as (X, Y, Z), or as (X, Y, Z, C) when C > 1. Of a time series
                (C, X, Y, Z, T); written as (X, Y, Z, T), or as (X, Y, Z, T, C), as NIfTI wants it.
            channel_dim: axis of the channels; None when there is none.
            squeeze_end_dims: not used: spatial axes of length 1 stay, since the source has them too.
            kwargs: not used.
        """
        if isinstance(data_array, torch.Tensor) and data_array.dtype == torch.bfloat16:
            data_array = data_array.float()  # numpy knows no bfloat16
        array = convert_data_type(data_array, np.ndarray)[0]
        if array.ndim == 5 and channel_dim == 0:  # MONAI's own would take the frames away
            array = np.moveaxis(array, 0, -1)
        else:
            array = self.convert_to_channel_last(array, channel_dim=channel_dim, squeeze_end_dims=False, spatial_ndim=3)
        self.data_obj = array[..., 0] if array.shape[-1] == 1 else array

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = False, **options: Any) -> None:
        """Find the grid of the array.

        Args:
            meta_dict: metadata of the array, as MONAI's loader made it and ``Invertd`` restored it.
            resample: must be false: the array has to be on the grid of the source already.
            options: not used.

        Raises:
            UserError: when resampling is asked for, or the metadata tell no affine.
        """
        if resample:
            raise UserError("resample: found true, expected false with GridWriter, after Invertd; set it to false")
        if not meta_dict or meta_dict.get("affine") is None:
            raise UserError(
                "SaveImaged: found a tensor without an affine, expected a MetaTensor on the grid of the scan; keep the "
                "metadata (and Invertd) in the postprocessing"
            )
        assert self.data_obj is not None  # SaveImage sets the array first
        shape = self.data_obj.shape
        self.affine = np.asarray(meta_dict["affine"], dtype=np.float64)
        source = _source_header(meta_dict, self.affine, shape[:3])
        self.header = _placed_as(source, shape) if source is not None else _placed_by(self.affine, shape)

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the file, under another name until it is complete.

        Args:
            filename: path that ends in ``.nii`` or ``.nii.gz``.
            verbose: log the path.
            obj_kwargs: not used.

        Raises:
            UserError: when the name or the type of the voxels does not fit, or the disk does not take the file.
        """
        super(NibabelWriter, self).write(filename, verbose=verbose)
        path = Path(filename)
        if not path.name.endswith((".nii", ".nii.gz")):
            raise UserError(f"{path}: expected a name that ends in .nii or .nii.gz; set output_ext to .nii.gz")
        assert self.header is not None  # SaveImage sets the metadata first
        array = _as_type(np.asarray(self.data_obj), self.output_dtype, path)
        self.header.set_data_dtype(array.dtype)
        image_class = nib.Nifti2Image if isinstance(self.header, nib.Nifti2Header) else nib.Nifti1Image
        image = image_class(array, None, header=self.header)
        image.header["descrip"] = f"monai_pdddpm {__version__}".encode()
        if self.labels:
            content = json.dumps({"labels": dict(self.labels)}).encode()
            image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", content))
        _write_whole(image, path)


def _source_header(meta: Mapping, affine: np.ndarray, shape: tuple[int, ...]) -> nib.Nifti1Header | None:
    """Find the NIfTI header of the source, if the array has its shape and lies where the source lies."""
    for header in (_header_on_disk(meta), _header_in_meta(meta)):
        if header is None or _spatial(header.get_data_shape()) != shape:
            continue
        # as MONAI loaded it, which may differ from the file, or else as the file has it
        loaded = meta.get("original_affine")
        expected = header.get_best_affine() if loaded is None else np.asarray(loaded, dtype=np.float64)
        if _same_place(affine, expected, shape):
            return header
    return None


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1)[:3]


def _same_place(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tell whether two affines place every voxel of a grid within a hundredth of a voxel of each other."""
    if first.shape != (4, 4) or second.shape != (4, 4):
        return False
    return largest_shift(second, first, shape) <= 0.01


def _header_on_disk(meta: Mapping) -> nib.Nifti1Header | None:
    path = str(meta.get("filename_or_obj", ""))
    if not path.lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        header = nib.load(path).header
    except Exception:  # gone or changed since it was loaded: the metadata will do
        return None
    return header if isinstance(header, nib.Nifti1Header) else None


def _header_in_meta(meta: Mapping) -> nib.Nifti1Header | None:
    """Put the source's header together from what MONAI's loader kept of it."""
    if any(name not in meta for name in (*_PLACE, "dim", "pixdim")):
        return None
    header = nib.Nifti2Header() if meta.get("sizeof_hdr") == 540 else nib.Nifti1Header()
    for name in _PLACE:
        header[name] = np.asarray(meta[name])
    header["dim"] = np.asarray(meta["dim"])
    # transforms change pixdim, but not this copy of it
    header["pixdim"] = np.asarray(meta.get("original_pixdim", meta["pixdim"]))
    return header


def _placed_as(source: nib.Nifti1Header, shape: tuple[int, ...]) -> nib.Nifti1Header:
    """Make a header for an array of this shape with the source's place in space."""
    header = nib.Nifti2Header() if isinstance(source, nib.Nifti2Header) else nib.Nifti1Header()
    header.set_data_shape(shape)
    for name in _PLACE:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    if len(shape) >= 4 and len(source.get_data_shape()) >= 4 and source.get_data_shape()[3] == shape[3]:
        header["pixdim"][4] = source["pixdim"][4]  # frame for frame, so the time step holds
        header["toffset"] = source["toffset"]
    return header


def _placed_by(affine: np.ndarray, shape: tuple[int, ...]) -> nib.Nifti1Header:
    """Make a header for an array of this shape from an affine alone, code 1 meaning the scanner's space."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header["xyzt_units"] = _MILLIMETRES
    return header


def _as_type(array: np.ndarray, wanted: DtypeLike | torch.dtype, path: Path) -> np.ndarray:
    """Convert voxels to the type of the file; whole numbers are rounded, and must fit."""
    if wanted is not None:
        dtype = np.dtype(get_equivalent_dtype(wanted, np.ndarray))
    elif array.dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif array.dtype.kind in "iu" and array.size and array.min() >= 0:
        dtype = np.min_scalar_type(array.max())
    else:
        dtype = np.dtype(np.float32)
    if dtype.kind not in "iu" or array.dtype.kind == "b":
        return array.astype(dtype, copy=False)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    limits = np.iinfo(dtype)
    if not (limits.min <= low and high <= limits.max):  # NaN does not fit either
        raise UserError(
            f"{path}: values from {low:g} to {high:g} do not fit {dtype}; set output_dtype to a larger type"
        )
    return (np.rint(array) if array.dtype.kind == "f" else array).astype(dtype, copy=False)


def _write_whole(image: nib.Nifti1Image, path: Path) -> None:
    with atomic_write(path) as part, part.open("xb") as file:
        if path.name.endswith(".gz"):
            # neither name nor time goes into the file, so that equal results are equal files
            with gzip.GzipFile("", "wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
