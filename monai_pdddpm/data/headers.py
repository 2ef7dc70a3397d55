"""The header of a scan, checked before its voxels are read."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from monai_pdddpm.data.dicom import Series, read_series
from monai_pdddpm.data.geometry import check_affine, is_sheared, largest_shift, qform_of
from monai_pdddpm.data.text_header import check_text_header, spare_bytes
from monai_pdddpm.utils.errors import UserError, printable, resource_message
from monai_pdddpm.utils.memory import total_memory

NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_CIFTI_INTENTS = range(3000, 3100)
_UNITS = {1: "meter", 3: "micrometer"}  # NIfTI codes; 2 is mm, 0 is unknown, other codes are undefined
_FORM_CODES = range(6)
_DISAGREEMENT = 0.1  # voxels
_SIZE_TOLERANCE = 0.01
_FARTHEST = 1e6  # mm from the origin, where float32 still resolves a tenth of a mm
_GUESS = "it has neither sform nor qform, so left and right are a guess"


@dataclass(frozen=True)
class ScanHeader:
    """The content of one file or folder.

    Attributes:
        spatial: voxels along each spatial axis, three or fewer.
        extra: lengths of all other axes, those of length 1 included.
        affine: (4, 4), voxel to mm, RAS.
        notes: remarks for the reader of the results, each a sentence without a full stop.
        series: the slices of a DICOM series; None for a file.
    """

    spatial: tuple[int, ...]
    extra: tuple[int, ...]
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    series: Series | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """All axes as they are in the file."""
        return (*self.spatial, *self.extra)


def read_header(path: str | os.PathLike) -> ScanHeader:
    """Read the header of a scan and check it.

    The sform of a NIfTI file places the voxels if there is one, else the qform, as in nibabel. MONAI's reader takes
    the qform, even one with code 0, wherever the voxel sizes of the sform differ from ``pixdim`` in the fifth digit.

    Args:
        path: NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    Returns:
        The header.

    Raises:
        UserError: when there is no such file, or it is not an image of intensities, needs more memory than this
            computer has, or has an impossible affine.
    """
    path = Path(path)
    if os.path.isdir(path):
        try:
            series = read_series(path)
        except UserError:
            raise
        except Exception as error:  # pydicom raises many kinds for values that are none
            raise UserError(unreadable(path, error)) from error
        header = ScanHeader(series.shape, (), series.affine, series.notes, series)
    else:
        if not os.path.isfile(path) or not os.access(path, os.R_OK):  # unlike pathlib, os.path never raises
            found = (
                "cannot be read (not a regular file, or permission denied)"
                if os.path.exists(path)
                else "does not exist"
            )
            raise UserError(f"{path}: {found}, expected a scan file; check dataset_dir")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file, expected a scan; export or copy it again")
        header = _read_nifti(path) if path.name.lower().endswith(NIFTI_EXTENSIONS) else _read_by_itk(path)
    needed, available = 4 * math.prod(header.shape), total_memory()  # float32
    if available is not None and needed > available:
        shape = " x ".join(map(str, header.shape))
        raise UserError(
            f"{path}: found shape {shape}, which takes {needed / 2**30:.0f} GiB of memory, expected "
            f"at most the {available / 2**30:.0f} GiB of this computer; check the header, or crop the scan"
        )
    check_affine(path, header.affine)
    if (distance := np.abs(header.affine[:3, 3]).max()) > _FARTHEST:
        raise UserError(
            f"{path}: its first voxel lies {distance:g} mm from the origin, expected at most {_FARTHEST:g}; fix the "
            "header, for example with nibabel or fslorient"
        )
    if is_sheared(header.affine):
        note = "its axes are not at right angles (a tilted gantry?), so it was interpolated even at its own voxel size"
        header = replace(header, notes=(*header.notes, note))
    return header


def count_frames(path: str) -> int:
    """Return the number of volumes of a scan file along its fourth axis, 1 without one."""
    return max((1, *read_header(path).extra))


def unreadable(path: str | os.PathLike, error: BaseException) -> str:
    """Return one line on a file that could not be read: what the machine ran out of, or the library's message."""
    # ITK's messages begin with a place in its own code and the address of an object
    text = (
        re.sub(r"^.*(ITK ERROR|itk::ERROR): (\w+\(\w+\): )?", "", " ".join(str(error).split())) or type(error).__name__
    )
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return resource_message(path, error) or printable(
        f"{path}: cannot be read as an image ({type(error).__name__}: {text}), expected an intact scan; export or copy "
        "it again"
    )


def _read_nifti(path: Path) -> ScanHeader:
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds
        raise UserError(unreadable(path, error)) from error
    # CIFTI files have a class of their own by their name, else their intent code
    if not isinstance(image, nib.Nifti1Image) or int(image.header["intent_code"]) in _CIFTI_INTENTS:
        raise UserError(f"{path}: found a CIFTI file, expected a NIfTI image; take the volume it came from")
    with nib.openers.ImageOpener(str(path)) as file:  # again, without the fixes that nibabel makes on loading
        content = file.read(image.header.sizeof_hdr)
    raw = type(image.header)(content, endianness=image.header.endianness, check=False)
    if raw["magic"] == b"n+1" and raw["vox_offset"] < raw.sizeof_hdr:  # nibabel would read the header as voxels
        raise UserError(f"{path}: found vox_offset {raw['vox_offset']:g}, expected at least 352; export it again")
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise UserError(f"{path}: voxels of type {kind}, expected integers or real numbers; convert to intensities")
    unit = int(raw["xyzt_units"]) % 8
    if unit in _UNITS:
        raise UserError(
            f"{path}: found {_UNITS[unit]} as its unit of length, expected mm; convert its affine, or fix xyzt_units "
            "in the header if only that is wrong"
        )
    notes = _check_forms(path, image, raw)
    if unit not in (0, 2):
        notes.append(f"its unit of length is undefined (code {unit}): read as mm")
    return ScanHeader(image.shape[:3], image.shape[3:], np.asarray(image.affine, dtype=np.float64), tuple(notes))


def _check_forms(path: Path, image: nib.Nifti1Image, raw: nib.Nifti1Header) -> list[str]:
    """Compare the statements of a NIfTI header on its position: sform, qform and voxel sizes."""
    header = image.header
    shape = (*image.shape[:3], 1, 1, 1)[:3]
    sizes = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    notes = [  # nibabel replaces such a code by 0
        f"its {name}_code is {int(raw[f'{name}_code'])}, which is undefined: its {name} was ignored"
        for name in ("sform", "qform")
        if int(raw[f"{name}_code"]) not in _FORM_CODES
    ]
    if int(header["sform_code"]) > 0:
        check_affine(path, image.affine)
        if int(header["qform_code"]) > 0:
            if largest_shift(image.affine, qform_of(header), shape) > _DISAGREEMENT:
                notes.append("its sform and qform place it differently: the sform was used")
        elif not np.allclose(np.abs(sizes), voxel_sizes(image.affine), rtol=_SIZE_TOLERANCE):
            notes.append("its voxel sizes (pixdim) are not those of its sform: the sform was used")
        return notes
    given = sizes[: min(image.ndim, 3)]
    if not (np.isfinite(given).all() and (given > 0).all()):  # nibabel replaces 0 by 1 mm, and drops signs
        raise UserError(
            f"{path}: found voxels of {' x '.join(f'{size:g}' for size in sizes)} mm (pixdim), expected positive "
            "numbers; fix the header, for example with nibabel or fslhd"
        )
    if int(header["qform_code"]) == 0:
        return [*notes, _GUESS]
    if raw["pixdim"][0] not in (-1, 0, 1):  # the direction of the third axis; 0 stands for 1
        raise UserError(
            f"{path}: found {raw['pixdim'][0]:g} as its qfac (pixdim[0]), expected 1 or -1; fix the header, for "
            "example with nibabel or fslorient"
        )
    return notes


def _read_by_itk(path: Path) -> ScanHeader:
    import itk  # its import takes half a second, and NIfTI files do without

    notes = check_text_header(path)
    try:
        reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if reader is None:
            raise ValueError("no format that ITK reads")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = int(reader.GetImageSizeInBytes())  # fails for an unknown type of voxels
    except Exception as error:
        raise UserError(unreadable(path, error)) from error
    kind = reader.GetPixelTypeAsString(reader.GetPixelType())
    if kind in ("rgb", "rgba", "complex"):
        raise UserError(f"{path}: voxels of type {kind}, expected integers or real numbers; convert to intensities")
    sizes = tuple(int(reader.GetDimensions(axis)) for axis in range(reader.GetNumberOfDimensions()))
    values = int(reader.GetNumberOfComponents())
    count = min(len(sizes), 3)
    affine = np.eye(4)
    for axis in range(count):
        affine[:count, axis] = np.array(reader.GetDirection(axis))[:count] * reader.GetSpacing(axis)
        affine[axis, 3] = reader.GetOrigin(axis)
    affine[:2] *= -1  # ITK's world is LPS
    lengths = [float(np.linalg.norm(reader.GetDirection(axis))) for axis in range(len(sizes))]
    if np.abs(np.array(lengths) - 1).max() > _SIZE_TOLERANCE:
        found = " x ".join(f"{length:.3g}" for length in lengths)
        raise UserError(f"{path}: found axes of the lengths {found}, expected directions of length 1; export it again")
    if spare := spare_bytes(path, size):
        if spare >= size // max(sizes):
            raise UserError(
                f"{path}: found at least a slice of data more than its header describes, expected {size} bytes; export "
                "or convert it again"
            )
        notes.append(f"{spare} bytes more than its header describes were ignored")
    return ScanHeader(sizes[:3], (*sizes[3:], *([values] if values > 1 else [])), affine, tuple(notes))
