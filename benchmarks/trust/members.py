"""Are the members samples on real scans? The hippocampus bundle's members beside the one annotation of each case.

    python benchmarks/trust/members.py --dataset_dir <hippocampus>
    python benchmarks/trust/members.py --dataset_dir <hippocampus> --settings '{}' '{"num_steps": 10}'

If members were drawn from the distribution of annotations, two members would differ as much as a member differs from
the annotation (ratio 1), and the volume error would be about as large as the members' spread (1 SD).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.trust.contenders import ensemble  # noqa: E402
from benchmarks.trust.measures import SCANS_PER_SUBJECT, measure_all  # noqa: E402
from monai_pdddpm.data import labelled_cases  # noqa: E402
from monai_pdddpm.metrics.summary import statistic, subject_of  # noqa: E402
from monai_pdddpm.utils.errors import friendly_errors  # noqa: E402

COLUMNS = {
    "disagreement": "members differ / a member's error",
    "volume_z": "volume error / members' SD",
    "crps_ml": "volume CRPS, mL",
    "ged": "GED with the annotation",
    "dice": "Dice of the answer",
    "one_dice": "Dice of one member",
    "nll": "NLL near structure",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    friendly_errors(force=True)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", required=True)
    options.add_argument("--cases", type=int, help="number of validation cases, by default all")
    options.add_argument("--members", type=int, default=8)
    options.add_argument("--settings", nargs="+", type=json.loads, default=[{}], help="overrides of inference.json")
    options.add_argument("--output_dir", type=Path, default=HERE)
    args = options.parse_args(argv)
    rows: dict[str, dict[str, Any]] = {}
    for changes in args.settings:
        overrides = {**changes, "members": args.members, "inferer::return_members": True}
        parser = common.read_bundle(common.HIPPOCAMPUS, overrides)
        items = common.load_items(parser, labelled_cases(args.dataset_dir, "validation")[: args.cases])
        name = json.dumps(changes) if changes else "as shipped"
        found = measure_all(ensemble(parser, common.load_pair(parser)), items, name)
        subjects = [subject_of(case, SCANS_PER_SUBJECT) for case in found["cases"]]
        rows[name] = {key: statistic([case[key] for case in found["cases"].values()], subjects) for key in COLUMNS} | {
            "seconds_per_case": found["seconds_per_case"]
        }
    cells = [
        [name, *(f"{row[key]['mean']:.3f} [{row[key]['low']:.3f}, {row[key]['high']:.3f}]" for key in COLUMNS)]
        for name, row in rows.items()
    ]
    cases = len(items)
    text = common.table(["members", *COLUMNS.values()], cells) + (
        f"\n\n{args.members} members, {cases} validation cases; in brackets the 95 % bootstrap interval over subjects."
    )
    content = {"cases": cases, "members": args.members, **common.stamp(), "rows": rows}
    common.write_results(args.output_dir, "results_members", content, text)


if __name__ == "__main__":
    main()
