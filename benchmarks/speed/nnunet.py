"""What does nnU-Net v2's predictor cost on the same cases? Random weights, its own plan.

Run by `contenders.py --nnunet_python <python>` in an environment of its own, `pip install nnunetv2`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.turns import job_options, serve

NNUNET = {
    "nnunet": "nnU-Net v2, no mirroring, float32",
    "nnunet_bfloat16": "nnU-Net v2, no mirroring, bfloat16",
    "nnunet_mirror": "nnU-Net v2, mirrored, float32",
    "nnunet_mirror_bfloat16": "nnU-Net v2, mirrored, bfloat16",
}
ID, NAME, CONFIGURATION = 1, "Dataset001_cases", "3d_fullres"


def make_plan(training: list[Mapping[str, str]], labels: Mapping[str, str], work: Path) -> None:
    """Write the data set as links, and let nnU-Net measure it and make its plan."""
    raw = work / "raw" / NAME
    for case, (key, folder, end) in itertools.product(
        training, (("image", "imagesTr", "_0000"), ("label", "labelsTr", ""))
    ):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        name = Path(case["label"]).name.removesuffix(".nii.gz")
        link = raw / folder / f"{name}{end}.nii.gz"
        if not link.is_symlink():
            link.symlink_to(case[key])
    about = {"channel_names": {"0": "MRI"}, "labels": {name: int(value) for value, name in labels.items()}}
    about |= {"numTraining": len(training), "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    extract_fingerprints([ID], num_processes=1)
    plan_experiments([ID])


def make_predictor(work: Path, mirror: bool) -> Any:
    """Return nnU-Net's predictor with the network of the plan and random weights."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    plans = PlansManager(str(work / "preprocessed" / NAME / "nnUNetPlans.json"))
    about = json.loads((work / "raw" / NAME / "dataset.json").read_text(encoding="utf-8"))
    chosen, classes = plans.get_configuration(CONFIGURATION), len(about["labels"])
    network = nnUNetTrainer.build_network_architecture(plans, chosen, 1, classes, enable_deep_supervision=False)
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(network.eval(), plans, chosen, None, about, "nnUNetTrainer", (0, 1, 2))
    predictor.list_of_parameters = [network.state_dict()]  # one fold
    return predictor


def measure(job: Mapping[str, Any], answers: int, launched: float) -> None:
    """Measure cases from file to file, whenever a turn of this process comes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    predictor, half = make_predictor(Path(job["work"]), "mirror" in job["contender"]), "bfloat16" in job["contender"]
    passes = 8 if predictor.use_mirroring else 1
    found: dict[str, float] = {}
    windows, inner = [], predictor.predict_logits_from_preprocessed_data

    def timed(data: torch.Tensor) -> torch.Tensor:
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):  # nnU-Net itself does so on a GPU only
            logits = inner(data)
        found["segment"] = time.perf_counter() - begin
        return logits

    def one_case(number: int) -> dict[str, float]:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            predictor.predict_from_files_sequential([[job["cases"][number]["image"]]], [f"{folder}/{number}"])
            total = time.perf_counter() - begin
        return found | {"total": total}

    predictor.predict_logits_from_preprocessed_data = timed
    ready_seconds = time.time() - launched
    one_case(0)  # warm-up
    patch, network = predictor.configuration_manager.patch_size, predictor.network
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, *patch))
    for case in job["cases"]:
        data = predictor.configuration_manager.preprocessor_class(verbose=False).run_case(
            [case["image"]], None, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        )[0]
        size = [max(n, p) for n, p in zip(data.shape[1:], patch, strict=True)]
        windows.append(len(predictor._internal_get_sliding_window_slicers(size)))
    flops = passes * counter.get_total_flops()
    parameters = sum(p.numel() for p in network.parameters())
    about = {
        "title": NNUNET[job["contender"]],
        "members": 1,
        "num_steps": 0,
        "timed_steps": 0,
        "denoiser_evaluations": 0,
        "parameters": {"denoiser": 0, "all": parameters},
        "flops": {"segment": flops, "encode": 0, "call": 0, "case": round(flops * sum(windows) / len(windows))},
        "start_mib": None,
        "gpu_peak_mib": None,
        "dice": None,
        "patch": list(patch),
    }

    def end() -> dict[str, Any]:
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return about | {"peak_mib": next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))}

    serve(answers, ready_seconds, one_case, end)


if __name__ == "__main__":
    args = job_options(argparse.ArgumentParser(description=__doc__)).parse_args()
    folders = Path(args.job["work"])
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folders / name)
        (folders / name).mkdir(parents=True, exist_ok=True)
    if not (folders / "preprocessed" / NAME / "nnUNetPlans.json").is_file():
        make_plan(args.job["training"], args.job["labels"], folders)
        started = ["--launched", str(time.time())]  # the plan is no part of the measurement; the last option counts
        os.execv(sys.executable, [sys.executable, *sys.argv, *started])
    measure(args.job, args.answers, args.launched)
