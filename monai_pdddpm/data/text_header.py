"""Check NRRD and MetaImage headers for content that makes ITK crash, wait, or read files outside the scan's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_pdddpm.utils.errors import UserError, printable

_LARGEST = 1 << 16  # bytes
_LONGEST_LINE = 800  # bytes; ITK overruns its buffers beyond
_END = re.compile(rb"\r?\n\r?\n|ElementDataFile\s*=\s*LOCAL")
_AXES = re.compile(rb"^(?:dimension:|NDims\s*=)[ \t]*(\S*)", re.MULTILINE)
_GEOMETRY = re.compile(rb"^[^:=]*(?:direction|spacing|origin|offset|matrix)[^:=]*[:=].*\b(?:nan|inf)\b", re.I | re.M)
_DATA_FILE = re.compile(rb"^(?:data ?file:|ElementDataFile\s*=)\s*(.+?)\s*$", re.MULTILINE)


def check_text_header(path: Path) -> None:
    """Check the header of a NRRD or MetaImage file before ITK reads it.

    Args:
        path: the file with the header.

    Raises:
        UserError: when a line is too long, there are too many axes, a number of the geometry is not finite, or the
            voxels are in a file that is not a regular file in the same folder.
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
    for name in _DATA_FILE.findall(header):
        data = Path(name.decode(errors="replace"))
        if data.is_absolute() or ".." in data.parts:
            raise UserError(printable(f"{path}: found voxels in {data}, expected a file in its folder; copy it there"))
        if os.path.exists(path.parent / data) and not os.path.isfile(path.parent / data):  # False for long names
            raise UserError(printable(f"{path}: found no regular file {data}, expected its voxels; {remedy}"))
