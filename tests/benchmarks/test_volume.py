"""Measures of window traces by hand, and each part of the volume benchmark on a small volume."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.volume import volume as script
from benchmarks.volume.seams import seam_energy, spread_kept, squared_shares, window_borders, with_own_noise
from monai_pdddpm.data import write_phantom
from monai_pdddpm.inferers import EnsembleConfig
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.utils.errors import UserError

TINY = (64, 64, 48)
FAST = {"members": 2, "num_steps": 1}


class Threshold(nn.Module):
    """A segmenter: bright is the structure."""

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 50


class StateDenoiser(nn.Module):
    """A denoiser that returns the state."""

    num_classes, divisor = 2, 1

    def encode(self, image, presegmentation):
        return [image]

    def denoise(self, x_t, t, features, solver="", solver_steps=0):
        return x_t


def everywhere(*size):
    return torch.ones(*size, dtype=torch.bool)


def results(folder, part):
    assert (folder / f"results_{part}.md").read_text(encoding="utf-8").startswith("|")
    return json.loads((folder / f"results_{part}.json").read_text(encoding="utf-8"))


def test_the_scan_lies_in_the_background():
    volume = script.make_volume((60, 76, 50), seed=3)
    # 0.2, 0.7 and 0.6 of 12, 20 and 10 free voxels
    box = (slice(2, 50), slice(14, 70), slice(6, 46))
    assert np.array_equal(volume.image[box], volume.scan.image)
    outside = np.ones(volume.image.shape, bool)
    outside[box] = False
    assert volume.image[outside].mean() == pytest.approx(200, abs=0.2)
    assert volume.image[outside].std() == pytest.approx(15, abs=0.2)
    given = volume.tensor()[0, 0][box]
    assert (given.mean().item(), given.std().item()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))
    with pytest.raises(UserError, match=r"size: found \[40, 64, 64\], expected at least \[48, 56, 40\]"):
        script.make_volume((40, 64, 64))


def test_borders_by_hand():
    # windows 0-4, 2-6 and 4-8 along the first axis, one along the others
    assert window_borders(WindowPlan((8, 4, 4), (4, 4, 4))) == [[2, 4, 6], [], []]


def test_a_ramp_has_no_seam_and_jumps_have_their_height():
    ramp = torch.arange(8.0).view(8, 1, 1).expand(8, 2, 2)
    # 1 at borders; elsewhere 16 pairs of 1 along x and 32 of 0 along y and z
    assert seam_energy(ramp, [[2, 4, 6], [], []], everywhere(8, 2, 2)) == pytest.approx(1 / (16 / 48))
    line = torch.arange(8.0).view(8, 1, 1)
    assert seam_energy(line, [[2, 4, 6], [], []], everywhere(8, 1, 1)) == pytest.approx(1)
    steps = torch.ones(9)
    steps[[2, 5]] = torch.tensor([3.0, -7.0])  # before voxels 3 and 6
    jumps = torch.cat([torch.zeros(1), steps.cumsum(0)]).view(10, 1, 1)
    assert seam_energy(jumps, [[3, 6], [], []], everywhere(10, 1, 1)) == pytest.approx((3 + 7) / 2)
    region = everywhere(10, 1, 1)
    region[6:] = False  # excludes the second jump
    assert seam_energy(jumps, [[3, 6], [], []], region) == pytest.approx(3)
    assert math.isnan(seam_energy(torch.ones(4, 1, 1), [[2], [], []], everywhere(4, 1, 1)))


def test_spread_is_kept_or_halved():
    plan = WindowPlan((8, 4, 4), (4, 4, 4), mode="constant")
    shares = squared_shares(plan)
    assert shares[:, 0, 0].tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1]
    known = torch.rand(8, 4, 4) + 0.1
    assert spread_kept(3 * known, known, plan, everywhere(8, 4, 4)) == pytest.approx(1)
    assert spread_kept(known * shares, known, plan, everywhere(8, 4, 4)) == pytest.approx(0.5)


def test_noise_of_their_own_halves_the_spread_where_windows_overlap():
    network = PDDDPM(Threshold(), StateDenoiser(), time_steps=[999])
    config = EnsembleConfig(roi_size=(4, 8, 8), time_steps=[999], members=64, precision="float32")
    image = torch.randn(1, 1, 8, 8, 8).sign()
    mean, variance = with_own_noise(config, network, image, network.segment(image)[0], "constant")
    assert mean.sum(0).allclose(torch.ones(8, 8, 8))
    one, two = variance[0][[0, 1, 6, 7]].mean(), variance[0][2:6].mean()
    assert float(two / one) == pytest.approx(0.5, abs=0.05)


def test_memory_of_one_ensemble():
    found = script.memory_job(TINY, members=2, steps=1, returned=True)
    assert found["peak_mib"] >= found["start_mib"] > 0
    assert found["output_mib"] == pytest.approx(3 * (4 + 2) * 64 * 64 * 48 * 4 / 2**20)


def test_case_needs_scans(tmp_path):
    with pytest.raises(UserError, match="dataset_dir: found none"):
        script.main(["--parts", "case", "--output_dir", str(tmp_path)])


@pytest.mark.slow
def test_the_script_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SEAM_SIZE", TINY)
    monkeypatch.setattr(script, "ENSEMBLES", ((1, False), (2, True)))
    data = write_phantom(tmp_path / "data", train=1, validation=1, test=0, series=0, annotations=1, progress=False)
    command = ["--parts", *script.PARTS, "--size", *map(str, TINY), "--members", "1", "--num_steps", "1"]
    command += ["--dataset_dir", str(data), "--overrides", json.dumps(FAST)]
    script.main([*command, "--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)])
    active = results(tmp_path, "cost")["rows"]
    assert [row["windows"] for row in active] == ["all", "active"]
    assert all(row["windows_run"] + row["windows_skipped"] == 8 for row in active)
    assert [row["members"] for row in results(tmp_path, "memory")["rows"]] == [1, 2]
    rows = {row["name"]: row for row in results(tmp_path, "seams")["rows"]}
    assert rows["true distribution"]["spread_kept"] == pytest.approx(1)
    assert rows["true distribution"]["dice"] == 1
    assert (tmp_path / "results_seams.png").stat().st_size > 5000
    found = results(tmp_path, "case")["rows"]
    assert [row["settings"] for row in found] == list(script.CASE_SETTINGS)
    assert all(0 < row["mean"]["dice"] <= 1 for row in found)
