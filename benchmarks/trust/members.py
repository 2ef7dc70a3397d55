"""Are the members samples on real scans? The hippocampus bundle's members beside the one annotation of each case.

    python benchmarks/trust/members.py --dataset_dir <hippocampus>
    python benchmarks/trust/members.py --dataset_dir <hippocampus> --settings '{}' '{"num_steps": 10}'
    python benchmarks/trust/members.py --dataset_dir <hippocampus> --presegmentation_dir <files> --output_dir <folder>

If members were drawn from the distribution of annotations, two members would differ as much as a member differs from
the annotation (ratio 1), and the volume error would be about as large as the members' spread (1 SD). The row
"pre-segmentation" has the segmenter's answer or that of the files, as a distribution of one segmentation.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.trust.contenders import Draw, ensemble, passes
from benchmarks.trust.measures import SCANS_PER_SUBJECT, measure_all, validation_cases
from monai_pdddpm.data.folds import subject_of
from monai_pdddpm.metrics.summary import statistic
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.utils.errors import friendly_errors

COLUMNS = {
    "disagreement": "members differ / a member's error",
    "volume_z": "volume error / members' SD",
    "crps_ml": "volume CRPS, mL",
    "ged": "GED with the annotation",
    "dice": "Dice of the answer",
    "one_dice": "Dice of one member",
    "nll": "NLL near structure",
    "calibrated_nll": "NLL, calibrated",
}


def before(parser: ConfigParser, network: PDDDPM) -> Draw:
    """Return the pre-segmentation, of the file or else of the segmenter, as answer and as two equal members."""
    segmenter = passes(parser, [network])

    def draw(image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        answer = segmenter(image)[0] if presegmentation is None else presegmentation[0]
        return answer, torch.stack([answer, answer])

    return draw


def _cell(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "-"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    friendly_errors(force=True)
    options = common.script_options(__file__, __doc__)
    options.add_argument("--dataset_dir", required=True)
    options.add_argument("--cases", type=int, help="number of validation cases, by default all")
    options.add_argument("--members", type=int, default=8)
    options.add_argument("--presegmentation_dir", default="", help="files in place of the segmenter's answers")
    options.add_argument("--settings", nargs="+", type=json.loads, default=[{}], help="overrides of inference.json")
    args = options.parse_args(argv)
    overrides = {"members": args.members, "inferer::return_members": True}
    overrides["presegmentation_dir"] = args.presegmentation_dir
    parser = common.read_bundle(common.HIPPOCAMPUS, overrides, args.device)
    items = common.load_items(parser, validation_cases(args.dataset_dir)[: args.cases])
    pair = common.load_pair(parser)
    draws = {"pre-segmentation": before(parser, pair)}
    for changes in args.settings:
        changed = common.read_bundle(common.HIPPOCAMPUS, {**overrides, **changes}, args.device)
        draws[json.dumps(changes) if changes else "as shipped"] = ensemble(changed, pair)
    rows: dict[str, dict[str, Any]] = {}
    for name, draw in draws.items():
        found = measure_all(draw, items, name)
        subjects = [subject_of(case, SCANS_PER_SUBJECT) for case in found["cases"]]
        rows[name] = {
            key: statistic([case.get(key, math.nan) for case in found["cases"].values()], subjects) for key in COLUMNS
        }
        rows[name]["seconds_per_case"] = found["seconds_per_case"]
    cells = [[name, *(_cell(row[key]) for key in COLUMNS)] for name, row in rows.items()]
    cases = len(items)
    text = common.table(["members", *COLUMNS.values()], cells) + (
        f"\n\n{args.members} members, {cases} validation cases; in brackets the 95 % bootstrap interval over subjects."
    )
    content = {"cases": cases, "members": args.members, **common.stamp(), "rows": rows}
    common.write_results(args.output_dir, "results_members", content, text)


if __name__ == "__main__":
    main()
