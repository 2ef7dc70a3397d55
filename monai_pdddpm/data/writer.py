"""Write maps as NIfTI on the grid of the scan that they belong to."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from monai_pdddpm import __version__
from monai_pdddpm.data.geometry import largest_shift, qform_of
from monai_pdddpm.utils.atomic_write import atomic_write
from monai_pdddpm.utils.errors import UserError

# header fields that place a grid in space; pixdim is copied separately
_PLACE = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_COMPRESSION = 4  # of 9: a third of the size of level 1 on label maps, in half the time of level 6
_STEPS = 32767  # of a scaled map, in signed 16 bits, which every reader of NIfTI supports
_MILLIMETERS = 2
_SAME_PLACE, _SAME_FORM = 0.01, 1e-4  # voxels


def find_grid(meta: Mapping[str, Any], shape: tuple[int, ...]) -> nib.Nifti1Header:
    """Return a NIfTI header that places an array in space.

    If the source is a NIfTI file with this grid, the header has the file's sform, qform, codes, units and voxel
    sizes, because MONAI may change them on loading. For other sources and other grids, sform and qform are the array's
    affine with code 1, in mm. Where the file states two positions, the sform counts: the qform and the voxel sizes are
    made from it, and the qform gets code 0, because ITK would prefer it and it cannot be sheared.

    Args:
        meta: metadata of the array from MONAI's loader, restored by ``Invertd``.
        shape: lengths of the three spatial axes.

    Raises:
        UserError: if the metadata have no affine.
    """
    if meta.get("affine") is None:
        raise UserError(
            "affine: found a map without one, expected a MetaTensor on the grid of the scan; keep the metadata and "
            "Invertd in the postprocessing"
        )
    affine = np.asarray(meta["affine"], dtype=np.float64)
    header = _header_on_disk(meta, affine, shape)
    if header is None:
        header = nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1)
        header["xyzt_units"] = _MILLIMETERS
    sform = header.get_sform()
    shift = largest_shift(sform, qform_of(header), shape) if header["sform_code"] > 0 else 0.0
    if shift > _SAME_FORM:
        # MONAI reads a qform of code 0 where its voxel sizes fit pixdim, so its numbers have to be right too
        header.set_qform(sform, int(header["qform_code"]) if shift <= _SAME_PLACE else 0, strip_shears=True)
    return header


def write_nifti(
    path: Path,
    array: np.ndarray | torch.Tensor,
    grid: nib.Nifti1Header,
    labels: Mapping[str, str] | None = None,
    highest: float | None = None,
) -> None:
    """Write a map. The file appears when it is complete; equal arrays give equal bytes.

    Args:
        path: file whose name ends in ``.nii.gz``; its folder must exist.
        array: (C, X, Y[, Z]), written as (X, Y, Z), or as (X, Y, Z, C) when C > 1. A time series has shape
            (C, X, Y, Z, T) and is written as (X, Y, Z, T), or as (X, Y, Z, T, C).
        grid: header of :func:`find_grid`.
        labels: class names by label value, stored as a header comment ``{"labels": {...}}``.
        highest: stores values from 0 to this as 16-bit integers with a slope in the header, by which readers get values
            within ``highest / 65534``. None takes the smallest unsigned type for whole numbers, and float32 otherwise.

    Raises:
        UserError: if a value lies outside of 0 to ``highest``, or the disk refuses the file.
    """
    if isinstance(array, torch.Tensor):
        array = (array.float() if array.dtype == torch.bfloat16 else array).detach().cpu().numpy()
    voxels = np.asarray(array)
    while voxels.ndim < 4:
        voxels = voxels[..., None]
    voxels = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)
    voxels = _as_smallest(voxels) if highest is None else _as_steps(voxels, highest, path)
    header = _placed_as(grid, voxels.shape)
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1.0 if highest is None else highest / _STEPS, 0.0)
    header["descrip"] = f"monai_pdddpm {__version__}".encode()
    if labels:
        content = json.dumps({"labels": dict(labels)}).encode()
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", content))
    with atomic_write(path) as part, part.open("xb") as file:  # noqa: SIM117  (one line would be too long)
        # neither name nor time, so that equal results are equal files
        with gzip.GzipFile("", "wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as packed:
            _write(packed, header, voxels)


def _write(file: Any, header: nib.Nifti1Header, voxels: np.ndarray) -> None:
    """Write header and voxels; nibabel's images would replace the slope."""
    start = io.BytesIO()
    header.write_to(start)
    file.write(start.getvalue().ljust(header.get_data_offset(), b"\0"))
    file.write(np.asarray(voxels, header.get_data_dtype()).tobytes(order="F"))


def _as_steps(array: np.ndarray, highest: float, path: Path) -> np.ndarray:
    """Return values from 0 to `highest` as whole numbers from 0 to 32767."""
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (-1e-4 * highest <= low and high <= (1 + 1e-4) * highest):  # also refuses NaN
        raise UserError(f"{path}: found values from {low:g} to {high:g}, expected 0 to {highest:g}; report this fault")
    steps = np.multiply(array, np.float32(_STEPS / highest), dtype=np.float32)
    return np.rint(steps, out=steps).clip(0, _STEPS, out=steps).astype(np.int16)


def _as_smallest(array: np.ndarray) -> np.ndarray:
    """Return whole numbers of 0 or more in the smallest unsigned type, all others in float32."""
    whole = array.dtype.kind in "biu" and array.size and array.min() >= 0
    return array.astype(np.min_scalar_type(int(array.max())) if whole else np.float32, copy=False)


def _header_on_disk(meta: Mapping[str, Any], affine: np.ndarray, shape: tuple[int, ...]) -> nib.Nifti1Header | None:
    """Return the header of the source, if it is a NIfTI file with this grid."""
    path = str(meta.get("filename_or_obj", ""))
    if not path.lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        header = nib.load(path).header
    except Exception:  # gone or changed since it was loaded
        return None
    if not isinstance(header, nib.Nifti1Header) or (*header.get_data_shape(), 1, 1, 1)[:3] != shape:
        return None
    # the file's affine as MONAI loaded it, which may differ from the header's
    expected = np.asarray(meta.get("original_affine", header.get_best_affine()), dtype=np.float64)
    if expected.shape == affine.shape == (4, 4) and largest_shift(expected, affine, shape) <= _SAME_PLACE:
        return header
    return None


def _placed_as(source: nib.Nifti1Header, shape: tuple[int, ...]) -> nib.Nifti1Header:
    """Return a header for an array of this shape with the source's place in space."""
    header = nib.Nifti2Header() if isinstance(source, nib.Nifti2Header) else nib.Nifti1Header()
    header.set_data_shape(shape)
    for name in _PLACE:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    if len(shape) >= 4 and len(source.get_data_shape()) >= 4 and source.get_data_shape()[3] == shape[3]:
        header["pixdim"][4] = source["pixdim"][4]  # one map per frame: the time step holds
        header["toffset"] = source["toffset"]
    return header
