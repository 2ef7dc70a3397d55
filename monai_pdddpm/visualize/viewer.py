"""Write a page that shows a case in a browser: one HTML file that needs no network and no other file.

NiiVue (BSD-2) draws the volumes. It is not part of this package: the page gets it from the installed `ipyniivue`.
"""

from __future__ import annotations

import base64
import gzip
import logging
import math
import re
from collections.abc import Mapping
from functools import cache, partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np
from monai.transforms.utils import generate_spatial_bounding_box
from nibabel.affines import voxel_sizes

from monai_pdddpm.transforms.case_summary import voxel_volume_ml
from monai_pdddpm.utils.atomic_write import write_text
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize.case_view import CaseView
from monai_pdddpm.visualize.colors import label_colors, rgb
from monai_pdddpm.visualize.cuts import MARGIN_MM, Array, informative_slices
from monai_pdddpm.visualize.overview import gray_window
from monai_pdddpm.visualize.templates import render

logger = logging.getLogger(__name__)

MAX_VOXELS = 4 * 2**20  # of an embedded volume: a page of at most some 8 MB
_INSTALL = "install it with pip install 'monai-pdddpm[viewer]'"
# NiiVue's ES module, percent-encoded, which the widget uses for saving pages of its own
_MODULE = re.compile(r'"([^"\n]+export%7B[^"\n]*Niivue%2C[^"\n]*)"')


def write_viewer(path: Path, view: CaseView, result: Mapping[str, Any]) -> None:
    """Write the page of a case; an older file is replaced only by a complete one.

    A case of more than `MAX_VOXELS` voxels is cropped to its labels and very uncertain voxels with a margin of 20 mm.
    If it is still larger, one line is logged, and no page is written.

    Args:
        path: the file.
        view: the case.
        result: volumes and warnings, as in the case's report.

    Raises:
        UserError: when NiiVue is not installed, or the file cannot be written.
    """
    code = niivue()
    box = _box_around(view, MARGIN_MM) if view.seg.size > MAX_VOXELS else (slice(None),) * 3
    if view.seg[box].size > MAX_VOXELS:
        logger.info("%s: no page written, the case has more than %d voxels to show", path, MAX_VOXELS)
        return
    cut = partial(_cut, affine=view.affine, box=box)
    scan, affine = cut(np.where(np.isfinite(view.image), view.image, 0).astype(np.float32))
    label_maps = {name: cut(volume.astype(np.uint8))[0] for name, volume in view.label_maps().items()}
    maps = view.maps()
    parts = {name: np.nan_to_num(cut(volume.astype(np.float32))[0]) / top for name, (volume, top, _) in maps.items()}
    shades = [np.rint(255 * part.clip(0, 1)).astype(np.uint8) for part in parts.values()]
    colors = label_colors(view.labels)
    # neither the scan nor the structures, which can be below a percent of it, are all black or white
    lows, highs = zip(gray_window(scan), gray_window(view.image[_box_around(view)]), strict=True)
    data = {
        "volumes": {
            "scan": _encoded(scan, affine, np.int16),
            "labels": _encoded(np.stack(list(label_maps.values()), axis=-1), affine, np.uint8),
            "maps": _encoded(np.stack(shades, axis=-1), affine, np.uint8),
        },
        "window": (min(lows), max(highs)),
        "crosshair": informative_slices(label_maps["Segmentation"], parts["Entropy"], 1),
        "voxel_ml": voxel_volume_ml(affine),
        "labels": [{"value": value, "name": name, "rgb": rgb(colors[value])} for value, name in view.labels.items()],
        "label_maps": list(label_maps),
        "maps": [{"name": name, "highest": top, "unit": unit} for name, (_, top, unit) in maps.items()],
    }
    page = render(
        "viewer.html.j2",
        view=view,
        result=result,
        colors=colors,
        cropped=scan.size < view.image.size,
        data=data,
        niivue=base64.b64encode(code).decode(),
        license=_license(),
    )
    write_text(path, page)


@cache
def niivue() -> bytes:
    """Return NiiVue's ES module, compressed by gzip.

    Raises:
        UserError: when `ipyniivue` is not installed, or has another content than versions 2.4 and newer.
    """
    try:
        widget = Path(str(distribution("ipyniivue").locate_file("ipyniivue/static/widget.js")))
        found = _MODULE.search(widget.read_text(encoding="utf-8"))
    except (PackageNotFoundError, OSError) as error:
        raise UserError(f"ipyniivue: found no installation, expected one for viewer pages; {_INSTALL}") from error
    if found is None:
        raise UserError(f"{widget}: found no NiiVue module, expected one as in ipyniivue 2.4; {_INSTALL}")
    return gzip.compress(unquote(found[1]).encode(), mtime=0)


def _license() -> str:
    package: Distribution = distribution("ipyniivue")
    texts = [str(file.read_text()) for file in package.files or () if file.name == "LICENSE"]
    return f"NiiVue, from ipyniivue {package.version}.\n\n" + "\n".join(texts)


def _box_around(view: CaseView, margin_mm: float = 0.0) -> tuple[slice, ...]:
    """Return the box around labels and very uncertain voxels, with a margin; the whole scan if there are none."""
    relevant = view.entropy >= math.log(len(view.labels) + 1) / 2
    for volume in view.label_maps().values():
        relevant = relevant | (volume != 0)
    margin = np.ceil(margin_mm / voxel_sizes(view.affine)).astype(int).tolist()
    start, end = generate_spatial_bounding_box(relevant[None], margin=margin, allow_smaller=True)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))
    return box if view.seg[box].size else (slice(None),) * 3


def _cut(volume: Array, affine: Array, box: tuple[slice, ...]) -> tuple[Array, Array]:
    """Return a part of a volume, with axes to the right, front and head, and its affine."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume, affine).slicer[box])
    return np.asarray(turned.dataobj), turned.affine


def _encoded(volume: Array, affine: Array, dtype: type[np.generic]) -> str:
    """Return a NIfTI file, compressed by gzip, in base64."""
    image = nib.Nifti1Image(volume, affine)
    image.set_data_dtype(dtype)  # nibabel scales floats to whole numbers
    return base64.b64encode(gzip.compress(image.to_bytes(), 4, mtime=0)).decode()
