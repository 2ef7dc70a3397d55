"""What do windows of the segmenter cost, and what Dice do they give?

    python benchmarks/speed/windows.py --dataset_dir <MS lesions>

Each scan is segmented with other sizes and overlaps of windows, and in a larger field of view filled with 0: with
windows everywhere, and over the scan's content as shipped. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from monai.transforms import SpatialPad

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.speed.drawn import LESION
from monai_pdddpm.bundle import keep_freed_memory
from monai_pdddpm.data.datalist import labelled_cases
from monai_pdddpm.inferers import ensemble
from monai_pdddpm.transforms.case_summary import agreement

FIELD = (256, 256, 192)
DIVISOR = 16  # of the segmenter
FIELDS = ("64, field of view", "64, content of the field of view")
SETTINGS: tuple[tuple[str, float], ...] = (
    *(("64", overlap) for overlap in (0.5, 0.25, 0.125)),
    *((size, 0.25) for size in ("80", "96", "128", "scan", *FIELDS)),
)
COLUMNS = {"count": "d", "seconds": ".1f", "dice": ".3f"}


def everywhere(frames: Any, inner: Any, padded: Sequence[int], roi_size: Any) -> tuple[slice, ...]:
    """Return the whole volume in place of its content."""
    return tuple(slice(0, n) for n in padded)


def segmented(item: dict[str, Any], windows: str, overlap: float) -> dict[str, Any]:
    """Segment a scan; return processor seconds, number of windows and Dice."""
    image, label = item["image"], item["label"]
    if "field" in windows:
        pad = SpatialPad([max(size) for size in zip(FIELD, label.shape, strict=True)])
        image, label = pad(image[0])[None], pad(label[None])[0]
    roi = [-(-n // DIVISOR) * DIVISOR for n in label.shape]
    if windows != "scan":
        roi = [int(windows.partition(",")[0])] * 3
    overrides = {"roi_size": roi, "overlap": overlap, "time_steps": [], "members": 1}
    parser = common.read_bundle(LESION, overrides)
    inferer, network = common.make_inferer(parser), common.load_pair(parser)
    content = ensemble.content_box if "content" in windows else everywhere
    begin = time.process_time()
    with mock.patch.object(ensemble, "content_box", content):
        parts, run = common.run_inferer(inferer, network, torch.as_tensor(image))
    seconds = time.process_time() - begin
    found = {"windows": windows, "overlap": overlap, "case": item["case"], "count": run.windows_skipped}
    return found | {"seconds": seconds, "dice": agreement(parts["preseg"].argmax(0)[None], label, [1])}


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format a row for each setting, with the scans side by side."""
    lines = []
    for windows, overlap in SETTINGS:
        own = [row for row in rows if (row["windows"], row["overlap"]) == (windows, overlap)]
        cells = [", ".join(format(row[key], form) for row in own) for key, form in COLUMNS.items()]
        lines.append([windows, overlap, *cells])
    everywhere, content = ([row["seconds"] for row in rows if row["windows"].endswith(end)] for end in FIELDS)
    pace = ", ".join(f"{a / b:.1f}" for a, b in zip(everywhere, content, strict=True))
    return f"{common.table(['windows', 'overlap', *COLUMNS], lines)}\n\nContent: {pace} times as fast as everywhere."


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all settings and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True)
    options.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent)
    args = options.parse_args(argv)
    keep_freed_memory()
    cases = [case for key in ("validation", "training") for case in labelled_cases(args.dataset_dir, key)]
    items = common.load_items(common.read_bundle(LESION), cases)
    segmented(items[0], "64", 0.125)  # warm-up
    rows = [segmented(item, *setting) for item in items for setting in SETTINGS]
    about = (
        f"{json.dumps(common.machine())}, {common.stamp()['at']}. Scans: {', '.join(item['case'] for item in items)}."
    )
    common.write_results(args.output_dir, "results_windows", {"rows": rows}, f"{as_table(rows)}\n\n{about}")


if __name__ == "__main__":
    main()
