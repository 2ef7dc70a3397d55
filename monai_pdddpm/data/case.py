"""The identity of a case: its name and its files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from monai_pdddpm.data.channel_files import case_of_channels, file_stem
from monai_pdddpm.utils.errors import UserError, printable
from monai_pdddpm.utils.provenance import FAILURES, PAGE, RUNS, TABLE, checksum

_LONGEST_NAME = 200  # bytes; file systems take 255, and names of outputs are longer
_DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in another file


@dataclass(frozen=True)
class Case:
    """One subject's scan. It stays whole in ``MetaTensor.meta`` when batches are collated and split again.

    Attributes:
        name: name of its results: the file's name without its extension, as MONAI's ``SaveImage`` has it; the whole
            name of a folder, dots included.
        files: one file or folder, or one for each channel; None for a channel without a file.
        notes: remarks on how the files were read, each a sentence without a full stop.
        subject: the subject that the data list names; empty if it names none.
    """

    name: str
    files: tuple[str | None, ...]
    notes: tuple[str, ...] = ()
    subject: str = ""
    ndim: ClassVar[int] = 0  # with `item`, marks a scalar for MONAI's `decollate_batch`

    def item(self) -> Case:
        """Return the case itself."""
        return self

    @classmethod
    def of(cls, image: Image) -> Case:
        """Identify the case of an entry of a list.

        A list of files has the name of the first file that exists, or else of the first that is listed; without the
        channel's number when the files are named as nnU-Net's (``<case>_0000``, ``<case>_0001``, ...).

        Args:
            image: path, or a list with one path for each channel, where None and "" stand for no file; or a case, which
                is returned as it is.

        Raises:
            UserError: when it is none of these.
        """
        if isinstance(image, Case):
            return image
        entries = [image] if isinstance(image, (str, os.PathLike)) else image
        if not isinstance(entries, Sequence) or not all(
            entry is None or isinstance(entry, (str, os.PathLike)) for entry in entries
        ):
            raise UserError(
                f"image: found {image!r}, expected a path, or a list with one for each channel; fix the data list"
            )
        files = tuple(os.fspath(entry) if entry else None for entry in entries)
        channels = case_of_channels(files) if entries is image else None
        return cls(channels or _name_of(_main_file(files)), files)

    @property
    def file(self) -> str:
        """The file that the case is named after."""
        return _main_file(self.files)

    @property
    def folder_key(self) -> str:
        """The name as file systems compare it that ignore case, Unicode's forms, and dots and spaces at the end."""
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", self.name.rstrip(". ")).upper().casefold())

    @property
    def present_files(self) -> tuple[str | None, ...]:
        """The files, with None in place of those that do not exist."""
        return tuple(file if file is not None and os.path.exists(file) else None for file in self.files)

    def check_name(self) -> None:
        """Check that results can be written as ``<name>/<name>_<kind>`` in the output folder.

        Raises:
            UserError: when the name is too long, is not printable text, names a folder or a file of the run.
        """
        length = len(os.fsencode(self.name))
        if printable(self.name) != self.name:
            found = "a name with control characters or bytes that are not text"
        elif self.name in ("", ".", "..") or os.path.basename(self.name) != self.name:
            found = f"a scan that would be written as {self.name!r}"
        elif self.folder_key in (FAILURES, RUNS, PAGE, TABLE):
            found = "a name that the run needs for a file of its own"
        elif length > _LONGEST_NAME:
            found = f"a name of {length} bytes"
        else:
            return
        raise UserError(
            f"{self.file}: found {found}, expected a name that results can be written under, of at most "
            f"{_LONGEST_NAME} bytes; rename the scan"
        )

    @property
    def all_files(self) -> list[str]:
        """The files, and the files beside a detached header (``.mhd``, ``.nhdr``) that share its name."""
        found = [file for file in self.files if file is not None]
        for header in [Path(file) for file in found if file.lower().endswith(_DETACHED)]:
            beside = sorted(header.parent.glob("*")) if header.parent.is_dir() else []
            found += [str(path) for path in beside if path.stem == header.stem and path != header]
        return found

    def checksums(self) -> dict[str, str | None]:
        """Return the SHA-256 of each file of `all_files`; None for a file that cannot be read."""
        return {file: checksum(file) for file in self.all_files}


Image: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike | None] | Case


def case_of(meta: Mapping[str, Any]) -> Case:
    """Return the case that a tensor with this metadata was read from.

    `LoadImageScand` writes it under ``case``; other loaders write ``filename_or_obj``.
    """
    case = meta.get("case")
    return case if isinstance(case, Case) else Case.of(str(meta.get("filename_or_obj") or "unnamed"))


def cases_of_batch(meta: Mapping[str, Any]) -> list[Case]:
    """Return the cases of a batch from its collated metadata, see `case_of`."""
    found = meta.get("case")
    return found if isinstance(found, list) else [Case.of(str(file)) for file in meta["filename_or_obj"]]


def case_name(image: Image) -> str:
    """Return the name of a case, see `Case.of`."""
    return Case.of(image).name


def _main_file(files: Sequence[str | None]) -> str:
    listed = [file for file in files if file]
    return next((file for file in listed if os.path.exists(file)), listed[0] if listed else "unnamed")


def _name_of(path: str) -> str:
    if os.path.isdir(path):
        return os.path.basename(os.path.abspath(path))
    return file_stem(path)
