import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "reliability" / "kill.py"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inference", "group", "segmenter", "denoiser"])
def test_killed_runs_lose_nothing(task):
    command = [sys.executable, str(SCRIPT), "--what", task, "--kills", "1", "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith(f"| {task} ")]
    assert [row[1].strip() for row in rows] == ["SIGKILL", "SIGTERM"][: 1 if task == "group" else 2]
    assert all(int(row[2]) == 1 for row in rows)
