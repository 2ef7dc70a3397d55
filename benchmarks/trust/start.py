"""From which T' on is the start honest? The first prediction, from the noised presegmentation and from the noised truth.

``python benchmarks/trust/start.py --dataset_dir <data>`` gives the bundle's denoiser both, with the same noise, for
every T' of a list. Where the predictions differ, the chain starts with an opinion that inference does not have: the
presegmentation's errors come back as evidence. An honest start is one that makes no difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.trust import measuring  # noqa: E402
from monai_pdddpm.data import labelled_cases  # noqa: E402
from monai_pdddpm.inferers.autocast import autocast  # noqa: E402
from monai_pdddpm.inferers.noise import member_noise  # noqa: E402
from monai_pdddpm.inferers.windows import pad_to  # noqa: E402
from monai_pdddpm.metrics import calibration_metrics, near_structure  # noqa: E402
from monai_pdddpm.networks import PDDDPM  # noqa: E402

STARTS = (100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000)


def first_predictions(
    network: PDDDPM, image: torch.Tensor, label: torch.Tensor, start_step: int, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return the first prediction, (K, ...), from the noised presegmentation and from the noised truth.

    Args:
        network: segmenter and denoiser.
        image: (1, C, ...), of a size that both take.
        label: (...) true classes.
        start_step: T'.
        seed: of the noise, which both share.
    """
    t = start_step - 1
    with torch.no_grad(), autocast(image.device, "bfloat16"):
        presegmentation = network.propose(network.segment(image))
        truth = torch.nn.functional.one_hot(label, presegmentation.shape[1]).movedim(-1, 0)[None].float()
        features = network.encode(image, presegmentation)
        noise = member_noise(seed, 0, 0, presegmentation.shape[1:])[None]
        found = {}
        for name, clean in (("presegmentation", presegmentation), ("truth", truth)):
            x_t = network.start(clean, noise, t)
            output = network.denoise(x_t, torch.full((1,), t), features)
            found[name] = network.probabilities(network.x0(output, x_t, t))[0].float()
    return found


def run(
    bundle: Path, dataset_dir: Path, every: int, overrides: dict[str, Any], model_file: Path
) -> list[dict[str, Any]]:
    """Return one line for each T'."""
    parser = measuring.read_bundle(bundle, overrides)
    network = measuring.pair_of(parser, model_file)
    items = measuring.load_cases(parser, labelled_cases(dataset_dir, "validation")[::every])
    lines = []
    for start_step in STARTS:
        change, nll = [], {"presegmentation": [], "truth": []}  # type: ignore[var-annotated]
        for item in items:
            image, _ = pad_to(item["image"], parser["roi_size"])
            label = pad_to(item["label"][None, None].float(), parser["roi_size"])[0][0, 0].long()
            size = [min(r, n) for r, n in zip(parser["roi_size"], image.shape[2:], strict=True)]
            crop = tuple(slice(0, n) for n in size)
            found = first_predictions(network, image[(slice(None), slice(None), *crop)], label[crop], start_step)
            near = near_structure(label[crop])
            change.append(float((found["presegmentation"] - found["truth"]).abs().sum(0)[near].mean()) / 2)
            for name, p in found.items():
                nll[name].append(calibration_metrics(p, label[crop], near)["nll"])
        abar = float(network.abar[start_step - 1])
        amplitude = (network.high - network.low) / 2
        lines.append(
            {
                "start_step": start_step,
                "snr": abar / (1 - abar) * amplitude**2,
                "change": float(np.mean(change)),
                "nll_from_presegmentation": float(np.mean(nll["presegmentation"])),
                "nll_from_truth": float(np.mean(nll["truth"])),
                "cases": len(items),
            }
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and keep it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, required=True)
    options.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "hippocampus_mri_segmentation")
    options.add_argument("--model_file", type=Path, default=None, help="the bundle's own by default")
    options.add_argument("--overrides", default="{}", help="of inference.json, as JSON")
    options.add_argument("--every", type=int, default=3, help="take every n-th validation case")
    args = options.parse_args(argv)
    model_file = args.model_file or args.bundle / "models" / "model.pt"
    lines = run(args.bundle, args.dataset_dir, args.every, json.loads(args.overrides), model_file)
    text = [
        "| T' | SNR of the labels | probability that changes | NLL from the presegmentation | NLL from the truth |",
        "|---|---|---|---|---|",
    ]
    for x in lines:
        cells = [str(x["start_step"]), f"{x['snr']:.2g}", f"{x['change']:.4f}"]
        cells += [f"{x['nll_from_presegmentation']:.3f}", f"{x['nll_from_truth']:.3f}"]
        text.append(f"| {' | '.join(cells)} |")
    print("\n".join(text))
    (HERE / "results_start.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    (HERE / "results_start.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
