"""Workers exchange tensors whatever the path of TMPDIR."""

import multiprocessing.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_pdddpm.utils import socket_paths
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]
LOADER = """
import torch
from monai_pdddpm.utils.socket_paths import shorten_socket_paths

class Ones(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.full((3,), float(index))

if __name__ == "__main__":
    shorten_socket_paths()
    loader = torch.utils.data.DataLoader(Ones(), num_workers=1, multiprocessing_context="METHOD")
    print([batch.tolist() for batch in loader])
"""


@pytest.fixture
def long_folder(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_loader_with_workers_ends(long_folder, tmp_path, method):
    script = tmp_path / "loader.py"
    script.write_text(LOADER.replace("METHOD", method))
    env = {**os.environ, "TMPDIR": str(long_folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, timeout=100, check=False)
    assert done.stdout.strip() == "[[[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]]", done.stderr


@pytest.fixture
def no_folder_yet(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {})


def test_other_temporary_files_stay(long_folder, no_folder_yet, monkeypatch):
    monkeypatch.setattr(socket_paths.tempfile, "tempdir", str(long_folder))
    socket_paths.shorten_socket_paths()
    assert socket_paths.tempfile.gettempdir() == str(long_folder)
    assert Path(multiprocessing.util.get_temp_dir()).parent == Path("/tmp")
    assert list(long_folder.iterdir()) == []


def test_a_short_path_is_used(no_folder_yet, monkeypatch):
    monkeypatch.setattr(socket_paths.tempfile, "tempdir", "/tmp/" + "x" * (103 - 32 - 5))
    socket_paths.shorten_socket_paths()
    assert multiprocessing.current_process()._config == {}  # nothing was made
    monkeypatch.setattr(socket_paths.tempfile, "tempdir", "/tmp/" + "x" * (104 - 32 - 5))
    socket_paths.shorten_socket_paths()
    assert multiprocessing.current_process()._config["tempdir"].startswith("/tmp/pymp-")


def test_no_place_for_sockets_is_one_line(long_folder, no_folder_yet, monkeypatch):
    monkeypatch.setattr(socket_paths.tempfile, "tempdir", str(long_folder))
    monkeypatch.setattr(socket_paths, "_SHORT", "/no/such/folder")
    with pytest.raises(
        UserError, match=r"^TMPDIR: found .*, expected at most 71 bytes for the sockets of workers; set"
    ):
        socket_paths.shorten_socket_paths()
    assert socket_paths.tempfile.gettempdir() == str(long_folder)
