"""Headers of NRRD and MetaImage files, looked at before ITK does, which trusts them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from monai_pdddpm.utils.errors import UserError

__all__ = ["DEFLATE_RATIO", "DETACHABLE", "VoxelData", "find_data"]

DEFLATE_RATIO = 1032  # no stream of deflate unpacks to more than that many times its length
_HEADER = 1 << 20  # bytes that a header of text may have
_LINE = 2000  # letters that a line may have: MetaIO reads into buffers of a fixed size
_FIELD = 800  # letters that a field of NRRD may have: NrrdIO puts those that it refuses into messages of 1 KiB
_AXES = range(1, 8)  # MetaIO has room for 10 and does not look
_NRRD = (".nrrd", ".nhdr")
DETACHABLE = (*_NRRD, ".mha", ".mhd")  # formats whose header may name another file for the voxels
_VECTORS = {
    "dimsize": 1,
    "elementspacing": 1,
    "elementsize": 1,
    "offset": 1,
    "position": 1,
    "origin": 1,
} | dict.fromkeys(
    ("transformmatrix", "rotation", "orientation"), 2
)  # field of MetaImage -> it has as many numbers as there are axes, to this power


@dataclass(frozen=True)
class VoxelData:
    """Where voxels lie.

    Attributes:
        file: that holds them.
        stored: bytes of the file that are voxels.
        packed: they are compressed.
        binary: they are not written as text.
        placed: the header says how the axes lie in space.
    """

    file: Path
    stored: int
    packed: bool
    binary: bool
    placed: bool


def find_data(path: str | os.PathLike) -> VoxelData:
    """Find the voxels of a NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``) file.

    Args:
        path: the file with the header.

    Raises:
        UserError: when the voxels lie in several files, outside of the folder of the header, or in no plain file.
        ValueError: when the header is none that can be right.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(_HEADER)
    nrrd = path.suffix.lower() in _NRRD
    fields, begin = (_nrrd_fields if nrrd else _meta_fields)(head)
    _check_sizes(fields, nrrd)
    name = fields.get("datafile", "") if nrrd else fields["elementdatafile"]
    if name and (nrrd or name.upper() != "LOCAL"):
        path, begin = _beside(path, name), 0
    stored = path.stat().st_size - begin
    if nrrd:
        skip = int(fields.get("byteskip", "0"))
        encoding = fields.get("encoding", "").lower()
        binary = encoding not in ("txt", "text", "ascii")
        packed = binary and encoding != "raw"
        placed = "spacedirections" in fields
    else:
        skip = int(fields.get("headersize", "0"))
        binary = fields.get("binarydata", "true").lower() == "true"
        packed = fields.get("compresseddata", "").lower() == "true"
        placed = any(key in fields for key in ("transformmatrix", "rotation", "orientation"))
        told = float(fields.get("compresseddatasize", "0"))
        if packed and not 0 <= told <= 2 * stored:  # MetaIO takes so much memory; it has written it as a rounded float
            raise ValueError(f"its header tells of {told:g} compressed bytes, {stored} are there")
    return VoxelData(path, stored - max(0, skip), packed, binary, placed)  # a skip of -1 counts from the end


def _nrrd_fields(head: bytes) -> tuple[Mapping[str, str], int]:
    """Return the fields of a NRRD header, names in small letters without spaces, and where the header ends."""
    if not head.startswith(b"NRRD"):
        raise ValueError("it does not begin with NRRD")
    fields: dict[str, str] = {}
    begin = 0
    for line in head.splitlines(keepends=True):
        begin += len(line)
        text = _text(line)
        if not text:
            break
        key, colon, value = text.partition(":")
        if key.startswith("#") or value.startswith("="):
            continue
        if len(text) > _FIELD and _plain(key) != "content":
            raise ValueError(f"a field of its header has {len(text)} letters, at most {_FIELD} were expected")
        if colon:
            _add(fields, key, value)
    return fields, begin


def _meta_fields(head: bytes) -> tuple[Mapping[str, str], int]:
    """Return the fields of a MetaImage header, names in small letters, and where the header ends."""
    fields: dict[str, str] = {}
    begin = 0
    for line in head.splitlines(keepends=True):
        begin += len(line)
        key, equals, value = _text(line).partition("=")
        if not key.strip():
            continue
        if not equals:
            raise ValueError(f"a line of its header is {key[:40]!r}, key = value was expected")
        _add(fields, key, value)
        if _plain(key) == "elementdatafile":
            return fields, begin
    raise ValueError("its header has no ElementDataFile")


def _add(fields: dict[str, str], key: str, value: str) -> None:
    if _plain(key) in fields:  # one of them for us, the other for ITK
        raise ValueError(f"its header has {key.strip()[:40]!r} twice")
    fields[_plain(key)] = value.strip()


def _text(line: bytes) -> str:
    if len(line) > _LINE:
        raise ValueError(f"a line of its header has {len(line)} letters, at most {_LINE} were expected")
    return line.decode("latin-1").strip("\r\n")


def _plain(key: str) -> str:
    return key.replace(" ", "").strip().lower()


def _check_sizes(fields: Mapping[str, str], nrrd: bool) -> None:
    axes = int(fields.get("dimension" if nrrd else "ndims", "0"))
    if axes not in _AXES:
        raise ValueError(f"its header tells of {axes} axes, {_AXES[0]} to {_AXES[-1]} were expected")
    sizes = [int(word) for word in fields.get("sizes" if nrrd else "dimsize", "").split()]
    if len(sizes) != axes or min(sizes) < 1 or math.prod(sizes) >= 1 << 62:
        raise ValueError(f"its header tells of the sizes {sizes}, {axes} whole numbers above 0 were expected")
    for key, power in ({} if nrrd else _VECTORS).items():
        count = len(fields.get(key, "").split())
        if key in fields and count != axes**power:
            raise ValueError(f"its header has {count} numbers in {key}, {axes**power} were expected")
    # ITK puts a direction of its own in the place of one that is no number, and mirrors by a negative spacing
    directions = re.findall(r"[^\s(),]+", fields.get("spacedirections", "")) if nrrd else ()
    if any(word != "none" and not math.isfinite(float(word)) for word in directions):
        raise ValueError("its space directions are not finite, numbers were expected")
    spacing = "" if nrrd else fields.get("elementspacing", "")
    if not all(0 < float(word) < math.inf for word in spacing.split()):
        raise ValueError(f"its spacing is {spacing}, numbers above 0 were expected")


def _beside(header: Path, name: str) -> Path:
    """Return the file that a header names, which has to lie in the header's folder or below it."""
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts:
        raise UserError(
            f"{header}: its voxels lie outside of its folder ({name!r}), expected a file beside it; move the file "
            "there and fix the header"
        )
    if name.split()[0].upper() == "LIST" or "%" in name:
        raise UserError(
            f"{header}: its voxels lie in several files ({name!r}), expected one; convert it to NIfTI, for example "
            "with SimpleITK"
        )
    file = header.parent / name
    if not os.path.isfile(file):
        raise UserError(f"{header}: its voxels are missing, expected them in the file {file}; copy both files")
    return file
