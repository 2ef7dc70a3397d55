"""What does each part of the denoiser cost, and what is it worth? Dice beside parameters and FLOPs.

``python benchmarks/trust/design.py`` builds the networks of some of the study's variants, counts what they need for one
window of the bundle, and puts beside it what the study measured on the fold (`results_fold.json`). It needs no data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.contenders import CONTENDERS, Task, image_channels  # noqa: E402
from benchmarks.speed.costs import denoiser_flops, parameters  # noqa: E402
from benchmarks.trust import measuring, study  # noqa: E402
from benchmarks.volume.volume import table  # noqa: E402

BUNDLE = ROOT / "bundles" / "hippocampus_mri_segmentation"
VARIANTS = (
    "cross_entropy",
    "narrow",
    "narrow_stem",
    "narrow_separable",
    "narrow_two_levels",
    "narrow_sandwich",
    "narrow_euler_2",
    "narrow_midpoint_2",
    "narrow_sub_pixel",
    "narrow_rk4",
    "narrow_untied",
)


def cost(name: str) -> dict[str, Any]:
    """Return parameters, and FLOPs of a call for one member, of a variant's denoiser."""
    variant = study.read_variants([name])[name]
    parser = measuring.read_bundle(BUNDLE, {**study.base_settings()["common"], **variant.get("common", {})})
    denoiser = parser.get_parsed_content("network_def").denoiser
    classes = len(parser["labels"])
    flops = denoiser_flops(denoiser, image_channels(parser), classes, parser["roi_size"])
    return {"parameters": parameters(denoiser), "flops": flops["call"]}


def baseline() -> dict[str, Any]:
    """Return the same of MONAI's network, which Fast-DDPM and vanilla DDPM are measured with."""
    parser = Task(BUNDLE).parser()
    denoiser = CONTENDERS["ddpm"].build(Task(BUNDLE)).pair.denoiser
    flops = denoiser_flops(denoiser, image_channels(parser), len(parser["labels"]), parser["roi_size"])
    return {"parameters": parameters(denoiser), "flops": flops["call"]}


def main() -> None:
    """Print the table and keep it."""
    known = {row["name"]: row for row in study.report.read_results(HERE / "results_fold.json")["rows"]}
    lines = [{"name": "MONAI's DiffusionModelUNet (32, 64, 128)", **baseline(), "measured": None}]
    for name, variant in study.read_variants(VARIANTS).items():
        title = variant["rows"][0]["name"]
        lines.append({"name": title, **cost(name), "measured": known.get(title)})
    head = ["denoiser", "parameters", "GFLOP a call", "Dice", "ECE", "NLL", "AUROC of errors", "NLL, one member"]
    rows = []
    for line in lines:
        found = line.pop("measured")
        forms = {"dice": ".4f", "ece": ".3f", "nll": ".3f", "error_auroc": ".3f", "one_nll": ".3f"}
        line |= {metric: found and found[metric]["mean"] for metric in forms}
        quality = [format(line[metric], form) if found else "" for metric, form in forms.items()]
        rows.append([line["name"], f"{line['parameters'] / 1e6:.2f} M", f"{line['flops'] / 1e9:.2f}", *quality])
    window = "x".join(map(str, Task(BUNDLE).parser()["roi_size"]))
    text = table(head, rows) + (
        f"\n\nOne window of {window}; on the fold's cases, five steps from T' = 950 to 0, eight members, nothing of "
        "the segmenter in the mean; each network trained once, for 5 epochs."
    )
    print(text)
    (HERE / "results_design.md").write_text(text + "\n", encoding="utf-8")
    (HERE / "results_design.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
