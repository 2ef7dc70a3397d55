"""Freed memory is used again: a process that repeats itself asks the system for no more pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from monai_pdddpm.utils.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**23)  # 32 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_fetched_once():
    pages = {}
    for way in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True)
        pages[way] = int(done.stdout)
    assert pages["keep"] < pages["leave"] / 2


def test_nothing_happens_where_there_is_no_glibc(monkeypatch):
    from monai_pdddpm.utils import memory

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()
