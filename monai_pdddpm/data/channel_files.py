"""Scans with one file for each channel, named ``<case>_0000``, ``<case>_0001``, ... as nnU-Net has them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def file_stem(path: str | os.PathLike) -> str:
    """Return the name of a file without its extension, as MONAI's ``SaveImage`` has it."""
    stem, extension = os.path.splitext(os.path.basename(path))
    return os.path.splitext(stem)[0] if extension == ".gz" else stem


def group_channels(files: Sequence[Path], channels: int) -> list[tuple[str, str | list[str | None]]]:
    """Group files by case.

    Nothing is grouped if a name ends in a number that is not below ``channels``: the numbers may count scans then; and
    if a name has no number, unless there are several channels and another case has all of them.

    Args:
        files: all scans of a folder.
        channels: number of channels of a scan.

    Returns:
        For each case its file name (without a channel, as its label map has it), and a file or None for each channel;
        then, for each file that is not grouped, its name and the file.
    """
    alone: list[tuple[str, str | list[str | None]]] = [(file.name, str(file)) for file in files]
    cases: dict[str, list[str | None]] = {}
    others = []
    for file in files:
        stem = file_stem(file)
        named = _CHANNEL.fullmatch(stem)
        if named is None:
            others.append((file.name, str(file)))
        elif int(named[2]) < channels:
            cases.setdefault(named[1] + file.name[len(stem) :], [None] * channels)[int(named[2])] = str(file)
        else:
            return alone
    if others and (channels == 1 or not any(map(all, cases.values()))):
        return alone
    return [*cases.items(), *others]


def case_of_channels(files: Sequence[str | None]) -> str | None:
    """Return the case that the files of a list are channels of; None if their names have other numbers."""
    named = {index: _CHANNEL.fullmatch(file_stem(file)) for index, file in enumerate(files) if file}
    cases = {found[1] if found and int(found[2]) == index else None for index, found in named.items()}
    return cases.pop() if len(cases) == 1 else None


def channel_files_of(path: Path, channels: int) -> list[str | None] | None:
    """Return the files of the channels of a scan that version 1 of nnU-Net lists without channels.

    Args:
        path: a file that does not exist.
        channels: number of channels.

    Returns:
        A file or None for each channel; None if there is no file of any channel.
    """
    stem = file_stem(path)
    files = [path.with_name(f"{stem}_{number:04d}{path.name[len(stem) :]}") for number in range(channels)]
    found = [str(file) if os.path.exists(file) else None for file in files]
    return found if any(found) else None
