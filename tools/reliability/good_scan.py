"""A valid scan, and functions that write damaged copies of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np

from monai_pdddpm.data.phantom_distribution import make_phantom_scan, phantom_affine

SPACING = (1.0, 1.5, 2.0)
VOXELS = make_phantom_scan((14, 12, 10), SPACING, seed=3).image.astype(np.float32)
AFFINE = np.array(nib.Nifti1Image(VOXELS, phantom_affine(SPACING)).header.get_sform())

Make = Callable[[Path], Any]


def nifti(
    array: np.ndarray = VOXELS,
    affine: np.ndarray = AFFINE,
    edits: dict[str | tuple[str, Any], Any] | None = None,
    endian: str = "<",
    extension: bytes = b"",
) -> bytes:
    """Return a NIfTI-1 file with changed header fields, written without any correction.

    Args:
        array: voxels.
        affine: voxel to world.
        edits: value by field name, or by (field name, index).
        endian: byte order.
        extension: bytes between header and voxels.
    """
    header = nib.Nifti1Header(endianness=endian)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(affine, 1)
    if abs(np.linalg.det(affine[:3, :3])) > 1e-3:
        header.set_qform(affine, 1)
    header["xyzt_units"] = 2
    header["magic"] = b"n+1"
    header["vox_offset"] = 352 + len(extension)
    fields = np.frombuffer(bytearray(header.binaryblock), header.structarr.dtype.newbyteorder(endian)).copy()
    for key, value in (edits or {}).items():
        name, at = key if isinstance(key, tuple) else (key, ...)
        if at is ...:
            fields[name] = value
        else:
            fields[name][0, at] = value
    flag = b"\1\0\0\0" if extension else bytes(4)
    data = np.asarray(array, array.dtype.newbyteorder(endian)).tobytes(order="F")
    return fields.tobytes() + flag + extension + data


def save(path: Path, array: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, **options: Any) -> Path:
    """Write `nifti`, compressed if the name ends with .gz."""
    content = nifti(array, affine, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.lower().endswith(".gz") else content)
    return path


def edited(name: str, value: Any, at: Any = None, file: str = "bad.nii", **more: Any) -> Make:
    """Return a function that writes a file with changed header fields."""
    edits = {name if at is None else (name, at): value} | more
    return lambda folder: save(folder / file, edits=edits)


def changed(change: Callable[[bytes], bytes], file: str = "bad.nii.gz") -> Make:
    """Return a function that writes a file with changed bytes."""
    return lambda folder: (folder / file).write_bytes(change(save(folder / file).read_bytes()))


def holding(array: np.ndarray, affine: np.ndarray = AFFINE, file: str = "bad.nii.gz") -> Make:
    """Return a function that writes other voxels or another affine."""
    return lambda folder: save(folder / file, array, affine)


def itk_image(array: np.ndarray = VOXELS) -> Any:
    """Return the scan as an ITK image."""
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    if array.ndim == 3:
        lps = np.diag([-1.0, -1, 1]) @ AFFINE[:3]
        spacing = np.linalg.norm(lps[:, :3], axis=0)
        image.SetSpacing([float(value) for value in spacing])
        image.SetOrigin([float(value) for value in lps[:, 3]])
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:, :3] / spacing)))
    return image


def by_itk(file: str, change: Callable[[bytes], bytes] | None = None, compress: bool = False) -> Make:
    """Return a function that writes a NRRD or MetaImage file and changes the bytes of its header."""

    def make(folder: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        itk.imwrite(itk_image(), str(folder / file), compression=compress)
        if change is not None:
            before = (folder / file).read_bytes()
            after = change(before)
            assert after != before, file
            (folder / file).write_bytes(after)

    return make


def series(folder: Path, uid: str = "1.2.826.0.1.3680043.8.498.7.1", names: str = "IM{:04}", **tags: str) -> list[Path]:
    """Write the valid scan as a DICOM series; return the files in the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = itk_image()
    direction = itk.array_from_matrix(whole.GetDirection())
    spacing = list(whole.GetSpacing())
    files = []
    for number in range(VOXELS.shape[2]):
        image = itk.image_from_array(np.ascontiguousarray(VOXELS[:, :, number].T.astype(np.int16))[None])
        image.SetSpacing(spacing)
        image.SetOrigin([float(v) for v in np.array(whole.GetOrigin()) + number * spacing[2] * direction[:, 2]])
        image.SetDirection(whole.GetDirection())
        values = image.GetMetaDataDictionary()
        for tag, value in {
            "0008|0060": "CT",
            "0020|000d": "1.2.826.0.1.3680043.8.498.7.100",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{number + 1}",
            "0020|0013": str(number + 1),
        }.items():
            values[tag] = value
        image.SetMetaDataDictionary(values)
        part = folder / "part.dcm"  # ITK writes DICOM under this suffix only
        itk.imwrite(image, str(part), imageio=itk.GDCMImageIO.New(KeepOriginalUID=True))
        files.append(part.rename(folder / names.format(number)))
    return files
