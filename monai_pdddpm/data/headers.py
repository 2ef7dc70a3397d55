"""What the header of a scan tells, and what is wrong with it, before a voxel is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from monai_pdddpm.data.detached import DEFLATE_RATIO, find_data
from monai_pdddpm.data.dicom import Series, read_series
from monai_pdddpm.data.geometry import check_affine, is_sheared, largest_shift
from monai_pdddpm.utils.checks import check_file
from monai_pdddpm.utils.errors import UserError, printable
from monai_pdddpm.utils.memory import total_memory
from monai_pdddpm.utils.resource_errors import shortage

__all__ = ["NIFTI_EXTENSIONS", "ScanHeader", "read_header", "unpacked_nifti", "unreadable"]

NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_CIFTI_INTENTS = range(3000, 3100)
_UNITS = {1: "metre", 3: "micron"}  # codes of NIfTI; 2 is mm, 0 says nothing, and others mean nothing
_FORM_CODES = range(6)
_HEAD = {348: 352, 540: 544}  # length of a header of NIfTI-1 and NIfTI-2, and where voxels may begin
_DISAGREEMENT = 0.1  # voxels
_OTHER_SIZES = 0.01
_FARTHEST = 1e6  # mm from the origin, where float32 still tells a tenth of a mm


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
    _check_memory(path, header.shape)
    check_affine(path, header.affine)
    if np.abs(header.affine[:3, 3]).max() > _FARTHEST:
        raise UserError(
            f"{path}: its first voxel lies {np.abs(header.affine[:3, 3]).max():g} mm away, expected at most "
            f"{_FARTHEST:g}; fix the header, for example with nibabel or fslorient"
        )
    if is_sheared(header.affine):
        note = "its axes are not at right angles (a tilted gantry?), so it was interpolated even at its own voxel size"
        header = ScanHeader(header.spatial, header.extra, header.affine, (*header.notes, note), header.series)
    return header


def _check_memory(path: Path, shape: tuple[int, ...]) -> None:
    needed, there = 4 * math.prod(shape), total_memory()  # float32
    if there is not None and needed > there:
        raise UserError(
            f"{path}: found shape {' x '.join(map(str, shape))}, which takes {needed / 2**30:.0f} GiB of memory, "
            f"expected at most the {there / 2**30:.0f} GiB of this computer; check the header, or crop the scan"
        )


def unreadable(path: str | os.PathLike, error: BaseException) -> str:
    """Say on one line that a file is no image, and what the library said of it, or what the machine lacked."""
    return shortage(path, error) or printable(
        f"{path}: cannot be read as an image ({type(error).__name__}: {_brief(error)}), expected an intact scan; "
        "export or copy it again"
    )


def _nifti(path: Path) -> ScanHeader:
    image = _load_nifti(path)
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise UserError(f"{path}: voxels of type {kind}, expected whole or real numbers; convert to a grey-scale scan")
    raw = _raw_header(path, image.header)
    unit = int(raw["xyzt_units"]) % 8
    if unit in _UNITS:
        raise UserError(
            f"{path}: found {_UNITS[unit]}s as its unit of length, expected mm; convert its affine, or fix xyzt_units "
            "in the header if that is what is wrong"
        )
    spatial, extra = image.shape[:3], image.shape[3:]
    notes = [*_forms(path, image, raw, spatial), *_check_length(path, image)]
    if unit not in (0, 2):
        notes.append(f"its unit of length is an unknown one (code {unit}): taken for mm")
    return ScanHeader(spatial, extra, np.asarray(image.affine, dtype=np.float64), tuple(notes))


def _forms(path: Path, image: nib.Nifti1Image, raw: nib.Nifti1Header, spatial: tuple[int, ...]) -> list[str]:
    """Compare what a NIfTI header says of its place: sform, qform and voxel sizes."""
    header = image.header
    shape = (*spatial, 1, 1, 1)[:3]
    sizes = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    codes = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    notes = [  # nibabel puts 0 in the place of such a code
        f"its {name}_code is {code}, which means nothing: its {name} was left out"
        for name, code in codes.items()
        if code not in _FORM_CODES
    ]
    if int(header["sform_code"]) > 0:
        check_affine(path, image.affine)
        if int(header["qform_code"]) > 0:
            if largest_shift(image.affine, _qform(header), shape) > _DISAGREEMENT:
                notes.append("its sform and qform place it differently: the sform was used")
        elif not np.allclose(np.abs(sizes), voxel_sizes(image.affine), rtol=_OTHER_SIZES):
            notes.append("its voxel sizes (pixdim) are not those of its sform: the sform was used")
        return notes
    # nibabel would go on with 1 mm in the place of 0, and turn signs round
    if not (np.isfinite(sizes[: len(spatial)]).all() and (sizes[: len(spatial)] > 0).all()):
        raise UserError(
            f"{path}: found voxels of {' x '.join(f'{size:g}' for size in sizes)} mm (pixdim), expected positive "
            "numbers; fix the header, for example with nibabel or fslhd"
        )
    if int(header["qform_code"]) > 0:
        if raw["pixdim"][0] not in (-1, 0, 1):  # which way the third axis runs; 0 stands for 1
            raise UserError(
                f"{path}: found {raw['pixdim'][0]:g} as its qfac (pixdim[0]), expected 1 or -1; fix the header, for "
                "example with nibabel or fslorient"
            )
        return notes
    return [*notes, "it has neither sform nor qform, so that its left and right are a guess"]


def _qform(header: nib.Nifti1Header) -> np.ndarray:
    """Return the affine of a qform, NaN when its numbers are none of a rotation."""
    try:
        return header.get_qform()
    except (ValueError, np.linalg.LinAlgError):
        return np.full((4, 4), np.nan)


def _raw_header(path: Path, header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Read a header once more, without what nibabel fixes on loading."""
    with nib.openers.ImageOpener(str(path)) as file:
        return type(header)(file.read(header.sizeof_hdr), endianness=header.endianness, check=False)


def _load_nifti(path: Path) -> nib.Nifti1Image:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    if packed != path.name.lower().endswith(".gz"):
        found, right = ("compressed", ".nii.gz") if packed else ("not compressed", ".nii")
        raise UserError(f"{path}: the file is {found}, expected what its name says; if it is a scan, name it {right}")
    _check_start(path)
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for what is no image
        raise UserError(f"{path}: not a readable NIfTI image ({_brief(error)}); export or convert it again") from error
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 images are of this class too, CIFTI files are not
        raise UserError(f"{path}: found a {type(image).__name__}, expected a NIfTI image; take the volume it came from")
    if int(image.header["intent_code"]) in _CIFTI_INTENTS:  # nibabel knows them by the end of their name only
        raise UserError(f"{path}: found a CIFTI file, expected a NIfTI image; take the volume it came from")
    return image


def _check_start(path: Path) -> None:
    """Check what lies before the voxels, which nibabel takes on trust."""
    with contextlib.suppress(EOFError, OSError, zlib.error), nib.openers.ImageOpener(str(path)) as file:
        start = file.read(544 + 4)
        for header_class in (nib.Nifti1Header, nib.Nifti2Header):
            if not header_class.may_contain_header(start):
                continue
            header = header_class(start[: header_class.sizeof_hdr], check=False)
            least, offset = _HEAD[header_class.sizeof_hdr], float(header["vox_offset"])
            if not least <= offset < math.inf:
                raise UserError(
                    f"{path}: its voxels are said to begin at byte {offset:g} (vox_offset), expected {least} or more; "
                    "export or convert it again"
                )
            file.seek(least - 4)
            if not file.read(4)[:1].strip(b"\0"):
                return
            at = least
            while at + 16 <= offset:
                file.seek(at)
                head = file.read(4)
                if len(head) < 4:  # cut short, which is told later
                    return
                size = int(np.frombuffer(head, header.endianness + "i4")[0])
                if size < 16 or at + size > offset:
                    raise UserError(
                        f"{path}: an extension of its header is said to have {size} bytes, expected 16 to "
                        f"{offset - at:g}; export or convert it again"
                    )
                at += size
            return


def _check_length(path: Path, image: nib.Nifti1Image) -> list[str]:
    """Compare the length of a NIfTI file with what its header tells; return notes."""
    expected, spare = _promised(image)
    if not path.name.lower().endswith(".gz"):
        found = path.stat().st_size
    elif expected > DEFLATE_RATIO * path.stat().st_size:
        found = min(_unpacked_length(path, expected), expected - 1)
    else:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # gzip ends with the length modulo 2**32: only when that is off is there a need to unpack everything
            if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
                return []
        found = _unpacked_length(path, expected + spare)
    return _compare_length(path, found, expected, spare)


def _promised(image: nib.Nifti1Image) -> tuple[int, int]:
    """Return the bytes that a file should have by its header, and how many more cannot be padding: a slice."""
    voxels = math.prod(image.shape) * image.get_data_dtype().itemsize
    return int(image.dataobj.offset) + voxels, max(1, voxels // max((*image.shape, 1)))  # type: ignore[attr-defined]


def _compare_length(path: Path, found: int, expected: int, spare: int) -> list[str]:
    if found < expected:
        raise UserError(
            f"{path}: cut short, found {found} bytes of data and expected {expected}; copy or download it again"
        )
    if found - expected >= spare:
        raise UserError(
            f"{path}: found at least {found - expected} bytes more than its header tells of, a slice or more, expected "
            f"{expected}; its header cannot be right, export or convert it again"
        )
    return [f"{found - expected} bytes more than its header tells of were left out"] if found > expected else []


def _unpacked_length(path: Path, enough: int) -> int:
    length = 0
    # what could be read before one of these counts
    with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
        while length < enough and (chunk := file.read(_CHUNK)):
            length += len(chunk)
    return min(length, enough)


def unpacked_nifti(path: str | os.PathLike) -> nib.Nifti1Image:
    """Unpack a ``.nii.gz`` into memory, and notice damage, as nibabel does not: it stops before the checksum.

    No more memory is taken than the header promises and the file holds.

    Raises:
        UserError: when it holds more than its header tells of.
        Exception: of many kinds, when it is damaged.
    """
    image: Any = nib.load(path)
    expected, spare = _promised(image)
    content = io.BytesIO()
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            content.write(chunk)
            if content.tell() > expected + spare + _CHUNK:
                _compare_length(Path(path), content.tell(), expected, spare)
    content.seek(0)
    return type(image).from_stream(content)


def _by_itk(path: Path) -> ScanHeader:
    try:
        data = find_data(path)
        reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if reader is None:
            raise ValueError("no format that ITK knows")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        itemsize = int(reader.GetComponentSize())  # an error for a type that it does not know
    except UserError:
        raise
    except Exception as error:
        raise UserError(unreadable(path, error)) from error
    kind = reader.GetPixelTypeAsString(reader.GetPixelType())
    if kind in ("rgb", "rgba", "complex"):
        raise UserError(f"{path}: voxels of type {kind}, expected whole or real numbers; convert to a grey-scale scan")
    axes = range(reader.GetNumberOfDimensions())
    sizes = tuple(int(reader.GetDimensions(axis)) for axis in axes)
    values = int(reader.GetNumberOfComponents())
    count = min(len(sizes), 3)
    affine = np.eye(4)
    for axis in range(count):
        affine[:count, axis] = np.array(reader.GetDirection(axis))[:count] * reader.GetSpacing(axis)
        affine[axis, 3] = reader.GetOrigin(axis)
    affine[:2] *= -1  # ITK's world is LPS
    promised = math.prod(sizes) * values * (itemsize if data.binary else 1)
    if data.packed:
        if promised > DEFLATE_RATIO * data.stored:
            _compare_length(data.file, data.stored, promised, promised)
    elif data.binary:
        _compare_length(data.file, data.stored, promised, max(1, promised // max(*sizes, 1)))
    notes = () if data.placed else ("it does not say how it lies in space, so that its left and right are a guess",)
    return ScanHeader(sizes[:3], (*sizes[3:], *([values] if values > 1 else [])), affine, notes)


def _brief(error: BaseException, limit: int = 200) -> str:
    """Put an exception's message on one line of at most ``limit`` characters."""
    text = " ".join(str(error).split())
    # ITK begins with the place in its own code and the address of an object
    text = re.sub(r"^.*ITK ERROR: (\w+\(\w+\): )?", "", text) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
