import pytest
import torch

from monai_pdddpm.bundle.threads import core_limit, fit_threads


def control_group(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return root


VERSION_1 = {"cpu__cpu_dot_cfs_quota_us": "250000", "cpu__cpu_dot_cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu_dot_max": "200000 100000"}, 2.0),
        ({"cpu_dot_max": "max 100000"}, None),
        (VERSION_1, 2.5),
        (VERSION_1 | {"cpu__cpu_dot_cfs_quota_us": "-1"}, None),
        ({"cpu_dot_max": "damaged"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_control_group(tmp_path, files, expected):
    assert core_limit(control_group(tmp_path, **files)) == expected


@pytest.mark.parametrize(
    ("limit", "threads"), [("50000 100000", 1), ("290000 100000", 2), ("900000 100000", 4), ("max 100000", 4)]
)
def test_threads_are_never_more_than_the_limit(tmp_path, monkeypatch, limit, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert fit_threads(control_group(tmp_path, cpu_dot_max=limit)) == threads
        assert torch.get_num_threads() == threads
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert fit_threads(tmp_path) == 4
    finally:
        torch.set_num_threads(before)
