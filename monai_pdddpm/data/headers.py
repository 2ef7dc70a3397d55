"""What the header of a scan tells, and what is wrong with it, before a voxel is read."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from monai_pdddpm.data.checks import check_file
from monai_pdddpm.data.dicom import Series, read_series
from monai_pdddpm.data.geometry import check_affine, is_sheared, largest_shift
from monai_pdddpm.errors import UserError

__all__ = ["NIFTI_EXTENSIONS", "ScanHeader", "read_header", "unreadable"]

NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_CIFTI_INTENTS = range(3000, 3100)
_UNITS = {1: "metre", 3: "micron"}  # codes of NIfTI; 2 is mm, and 0 says nothing
_DISAGREEMENT = 0.1  # voxels
_OTHER_SIZES = 0.01


@dataclass(frozen=True)
class ScanHeader:
    """What one file or folder holds.

    Attributes:
        spatial: voxels along each spatial axis, three or fewer.
        extra: lengths of all other axes, those of length 1 included.
        affine: (4, 4), voxel to mm, RAS.
        notes: what a reader of the results should know, each a sentence without an end.
        series: the slices, if it is a DICOM series.
    """

    spatial: tuple[int, ...]
    extra: tuple[int, ...]
    affine: np.ndarray
    notes: tuple[str, ...]
    series: Series | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes as they are in the file."""
        return (*self.spatial, *self.extra)


def read_header(path: str | os.PathLike) -> ScanHeader:
    """Read the header of a scan and check all that can be known from it alone.

    Of a NIfTI file the sform places the voxels if it has one, else the qform, as nibabel does. MONAI's reader takes
    the qform, even one with code 0, wherever the voxel sizes of the sform differ from ``pixdim`` in the fifth digit.

    Args:
        path: NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    Returns:
        The header.

    Raises:
        UserError: when there is no such file, it is no image, cut short, of voxels that are no grey values, or placed
            by an affine that cannot be right.
    """
    path = Path(path)
    if os.path.isdir(path):
        series = read_series(path)
        header = ScanHeader(series.shape, (), series.affine, (), series)
    else:
        check_file(path, "scan", "check dataset_dir")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file, expected a scan; export or copy it again")
        header = _nifti(path) if path.name.lower().endswith(NIFTI_EXTENSIONS) else _by_itk(path)
    check_affine(path, header.affine)
    if is_sheared(header.affine):
        note = "its axes are not at right angles (a tilted gantry?), so it was interpolated even at its own voxel size"
        header = ScanHeader(header.spatial, header.extra, header.affine, (*header.notes, note), header.series)
    return header


def unreadable(path: str | os.PathLike, error: BaseException) -> str:
    """Say on one line that a file is no image, and what the library said of it."""
    return (
        f"{path}: cannot be read as an image ({type(error).__name__}: {_brief(error)}), expected an intact scan; "
        "export or copy it again"
    )


def _nifti(path: Path) -> ScanHeader:
    image = _load_nifti(path)
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise UserError(f"{path}: voxels of type {kind}, expected whole or real numbers; convert to a grey-scale scan")
    unit = _UNITS.get(int(image.header["xyzt_units"]) % 8)
    if unit is not None:
        raise UserError(
            f"{path}: found {unit}s as its unit of length, expected mm; convert its affine, or mend xyzt_units in the "
            "header if that is what is wrong"
        )
    spatial, extra = image.shape[:3], image.shape[3:]
    notes = _forms(path, image, spatial)
    _check_length(path, image)
    return ScanHeader(spatial, extra, np.asarray(image.affine, dtype=np.float64), tuple(notes))


def _forms(path: Path, image: nib.Nifti1Image, spatial: tuple[int, ...]) -> list[str]:
    """Compare what a NIfTI header says of its place: sform, qform and voxel sizes."""
    header = image.header
    shape = (*spatial, 1, 1)[:3]
    sizes = np.asarray(_raw_header(path, header)["pixdim"][1:4], dtype=np.float64)
    if int(header["sform_code"]) > 0:
        check_affine(path, image.affine)
        if int(header["qform_code"]) > 0:
            if largest_shift(image.affine, header.get_qform(), shape) > _DISAGREEMENT:
                return ["its sform and qform place it differently: the sform was used"]
        elif not np.allclose(np.abs(sizes), voxel_sizes(image.affine), rtol=_OTHER_SIZES):
            return ["its voxel sizes (pixdim) are not those of its sform: the sform was used"]
        return []
    # nibabel would go on with 1 mm in the place of 0, and turn signs round
    if not (np.isfinite(sizes[: len(spatial)]).all() and (sizes[: len(spatial)] > 0).all()):
        raise UserError(
            f"{path}: found voxels of {' x '.join(f'{size:g}' for size in sizes)} mm (pixdim), expected positive "
            "numbers; mend the header, for example with nibabel or fslhd"
        )
    if int(header["qform_code"]) > 0:
        return []
    return ["it has neither sform nor qform, so that its left and right are a guess"]


def _raw_header(path: Path, header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Read a header once more, without what nibabel mends on loading."""
    with nib.openers.ImageOpener(str(path)) as file:
        return type(header)(file.read(header.sizeof_hdr), endianness=header.endianness, check=False)


def _load_nifti(path: Path) -> nib.Nifti1Image:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    if packed != path.name.lower().endswith(".gz"):
        found, right = ("compressed", ".nii.gz") if packed else ("not compressed", ".nii")
        raise UserError(f"{path}: the file is {found}, expected what its name says; if it is a scan, name it {right}")
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for what is no image
        raise UserError(f"{path}: not a readable NIfTI image ({_brief(error)}); export or convert it again") from error
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 images are of this class too, CIFTI files are not
        raise UserError(f"{path}: found a {type(image).__name__}, expected a NIfTI image; take the volume it came from")
    if int(image.header["intent_code"]) in _CIFTI_INTENTS:  # nibabel knows them by the end of their name only
        raise UserError(f"{path}: found a CIFTI file, expected a NIfTI image; take the volume it came from")
    return image


def _check_length(path: Path, image: nib.Nifti1Image) -> None:
    offset = int(image.dataobj.offset)  # type: ignore[attr-defined]
    expected = offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if not path.name.lower().endswith(".gz"):
        found = path.stat().st_size
    else:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # gzip ends with the length modulo 2**32: only when that is off is there a need to unpack everything
            if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
                return
        found = _unpacked_length(path, expected)
    if found < expected:
        raise UserError(
            f"{path}: cut short, found {found} bytes of data and expected {expected}; copy or download it again"
        )


def _unpacked_length(path: Path, enough: int) -> int:
    length = 0
    # what could be read before one of these counts
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
        while length < enough and (chunk := file.read(_CHUNK)):
            length += len(chunk)
    return length


def _by_itk(path: Path) -> ScanHeader:
    try:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if io is None:
            raise ValueError("no format that ITK knows")
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except Exception as error:
        raise UserError(unreadable(path, error)) from error
    kind = io.GetPixelTypeAsString(io.GetPixelType())
    if kind in ("rgb", "rgba", "complex"):
        raise UserError(f"{path}: voxels of type {kind}, expected whole or real numbers; convert to a grey-scale scan")
    axes = range(io.GetNumberOfDimensions())
    sizes = tuple(int(io.GetDimensions(axis)) for axis in axes)
    values = int(io.GetNumberOfComponents())
    count = min(len(sizes), 3)
    affine = np.eye(4)
    for axis in range(count):
        affine[:count, axis] = np.array(io.GetDirection(axis))[:count] * io.GetSpacing(axis)
        affine[axis, 3] = io.GetOrigin(axis)
    affine[:2] *= -1  # ITK's world is LPS
    return ScanHeader(sizes[:3], (*sizes[3:], *([values] if values > 1 else [])), affine, ())


def _brief(error: BaseException, limit: int = 200) -> str:
    """Put an exception's message on one line of at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
