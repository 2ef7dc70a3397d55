"""The files of Slurm and Kubernetes are well-formed and agree with themselves and the bundles."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/several-processes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
SLURM = next(text for _, text in BLOCKS if "#SBATCH" in text)


def check_command(words):
    files = words[words.index("--config_file") + 1]
    for name in json.loads(files.replace("'", '"')):
        assert (ROOT / "bundles/hippocampus_mri_segmentation" / name).is_file()
    assert words[words.index("monai.bundle") + 1 :][:2] == ["run", "inference"]


def test_the_slurm_file_is_a_shell_script_that_runs_inference():
    assert subprocess.run(["bash", "-n"], input=SLURM, text=True).returncode == 0
    assert SLURM.startswith("#!/bin/bash\n#SBATCH ")  # sbatch reads options before the first command only
    check_command(shlex.split(SLURM[SLURM.index("srun torchrun") :].replace("\\\n", " ")))


def test_the_kubernetes_file_is_valid_and_its_parts_fit():
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(next(text for kind, text in BLOCKS if kind == "yaml"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    words = shlex.split(pod["containers"][0]["args"][0])
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    assert f"--nnodes={spec['completions']}" in words
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    # pods of an Indexed Job are <job>-<index>.<subdomain>, and the subdomain is a headless service
    host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert f"--rdzv_endpoint={host}:29500" in words
    mounts = {volume["name"] for volume in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    check_command(words)
