"""The Dockerfile's instructions fit the repository; where an engine runs, the image is built and used."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def arguments(instruction):
    return [words for name, words in LINES if name == instruction]


def test_instructions_fit_the_repository():
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "FROM", "RUN", "USER", "WORKDIR"}
    assert {name for name, _ in LINES} <= known
    stages = {match[1] for match in re.finditer(r"^FROM \S+ AS (\w+)$", TEXT, re.MULTILINE)}
    for words in arguments("COPY"):
        *_, source, target = words.split()
        stage = re.match(r"--from=(\w+)", words)
        assert stage[1] in stages if stage else (ROOT / source).exists()
        assert target.startswith("/")
    assert arguments("USER") == ["user"]
    assert "monai_pdddpm/data" not in (ROOT / ".dockerignore").read_text(encoding="utf-8")


def test_run_lines_are_valid_shell():
    for words in arguments("RUN"):
        subprocess.run(["sh", "-n", "-c", words], check=True)


def test_the_default_command_shows_help():
    (entry,), (words,) = arguments("ENTRYPOINT"), arguments("CMD")
    command = [sys.executable, *json.loads(entry)[1:], *json.loads(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "demo" in done.stdout


@pytest.mark.slow
def test_image(tmp_path):
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine runs here")
    tmp_path.chmod(0o777)
    subprocess.run([docker, "build", "--quiet", "--tag", "monai-pdddpm-test", ROOT], check=True)
    run = [docker, "run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/work", "monai-pdddpm-test"]
    subprocess.run([*run, "monai_pdddpm", "demo"], check=True)
    assert (tmp_path / "pdddpm_demo" / "results" / "index.html").is_file()
