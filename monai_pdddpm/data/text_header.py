"""Check NRRD and MetaImage headers for content that ITK ignores, crashes or waits on, or reads from elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_pdddpm.utils.errors import UserError, printable

_LARGEST = 1 << 16  # bytes
_LONGEST_LINE = 800  # bytes; ITK overruns its buffers beyond
_END = re.compile(rb"\r?\n\r?\n|ElementDataFile\s*=\s*LOCAL[^\n]*\n?")
_RAW = re.compile(rb"^(?:encoding:[ \t]*raw|CompressedData[ \t]*=[ \t]*False)", re.I | re.M)
_AXES = re.compile(rb"^(?:dimension:|NDims\s*=)[ \t]*(\S*)", re.MULTILINE)
_GEOMETRY = re.compile(rb"^[^:=]*(?:direction|spacing|origin|offset|matrix)[^:=]*[:=].*\b(?:nan|inf)\b", re.I | re.M)
_DATA_FILE = re.compile(rb"^(?:data ?file:|ElementDataFile\s*=)\s*(.+?)\s*$", re.MULTILINE)
_UNITS = re.compile(rb"^(?:space units:|DistanceUnits[ \t]*=)(.*)$", re.I | re.M)
_MILLIMETERS = {b"mm", b"millimeter", b"millimeters"}
_SCALED = re.compile(rb"^ElementToIntensityFunction(Slope|Offset)[ \t]*=[ \t]*(\S+)", re.M)
_SIZES = re.compile(rb"^(?:spacings:|space directions:|Element(?:Spacing|Size)[ \t]*=)", re.I | re.M)
_SIDES = re.compile(rb"^space:[ \t]*(?:left|right|[LR][AP][SI]\b)", re.I | re.M)


def check_text_header(path: Path) -> list[str]:
    """Check the header of a NRRD or MetaImage file before ITK reads it.

    Args:
        path: the file with the header.

    Returns:
        Remarks on what the header leaves open.

    Raises:
        UserError: when a line is too long, there are too many axes, a number of the geometry is not finite, lengths are
            not in mm, values are to be scaled, or the voxels are in a file that is not a regular file in the same
            folder.
    """
    with path.open("rb") as stream:
        header = _END.split(stream.read(_LARGEST), maxsplit=1)[0]
    remedy = "export or convert it again"
    if (longest := max(map(len, header.splitlines()), default=0)) > _LONGEST_LINE:
        raise UserError(
            f"{path}: found a line of {longest} bytes in its header, expected at most {_LONGEST_LINE}; {remedy}"
        )
    for axes in _AXES.findall(header):
        if not re.fullmatch(rb"[1-8]", axes):
            found = axes[:9].decode(errors="replace")
            raise UserError(printable(f"{path}: found {found!r} axes, expected a number from 1 to 8; {remedy}"))
    if _GEOMETRY.search(header):
        raise UserError(f"{path}: found NaN or infinity in its geometry, expected finite numbers; {remedy}")
    units = {word for words in _UNITS.findall(header) for word in re.findall(rb"[a-z]+", words.lower())}
    if other := units - _MILLIMETERS:
        found = b", ".join(sorted(other)).decode()
        raise UserError(f"{path}: found {found} as its unit of length, expected mm; convert it, or fix its header")
    for what, value in _SCALED.findall(header):
        if value.strip(b"0.") != (b"1" if what == b"Slope" else b""):
            raise UserError(
                printable(
                    f"{path}: found the {what.decode().lower()} {value.decode(errors='replace')} for its values, which "
                    f"ITK does not apply, expected stored intensities; {remedy}"
                )
            )
    for name in _DATA_FILE.findall(header):
        data = Path(name.decode(errors="replace"))
        if data.is_absolute() or ".." in data.parts:
            raise UserError(printable(f"{path}: found voxels in {data}, expected a file in its folder; copy it there"))
        if os.path.exists(path.parent / data) and not os.path.isfile(path.parent / data):  # False for long names
            raise UserError(printable(f"{path}: found no regular file {data}, expected its voxels; {remedy}"))
    notes = [] if _SIZES.search(header) else ["it states no voxel size: read as 1 mm"]
    if header.startswith(b"NRRD") and not _SIDES.search(header):
        notes.append("it states no anatomical space, so left and right are a guess")
    return notes


def spare_bytes(path: Path, size: int) -> int:
    """Return how many bytes follow ``size`` bytes of voxels in a NRRD or MetaImage file; 0 if they are compressed."""
    with path.open("rb") as stream:
        content = stream.read(_LARGEST)
    end = _END.search(content)
    return max(path.stat().st_size - end.end() - size, 0) if end and _RAW.search(content[: end.end()]) else 0
