import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.volume import volume as script
from benchmarks.volume.volume import (
    case,
    cost,
    handover_planes,
    main,
    make_volume,
    memory,
    memory_of,
    near_borders,
    seam_energy,
    seams,
    shares_squared,
    spread_kept,
    window_borders,
    with_own_noise,
)
from monai_pdddpm.data import write_phantom
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.utils.errors import UserError

TINY = (64, 64, 48)


class Threshold(nn.Module):
    """A segmenter: bright is the structure."""

    def forward(self, image):
        return torch.cat([-image, image], dim=1) * 50


class Denoiser(nn.Module):
    """Believes the image, or its noisy state."""

    num_classes, divisor = 2, 1

    def __init__(self, believes_state):
        super().__init__()
        self.believes_state = believes_state

    def encode(self, image, presegmentation):
        return [image]

    def denoise(self, x_t, t, features, solver="", solver_steps=0):
        return x_t if self.believes_state else torch.cat([-features[0], features[0]], dim=1).expand_as(x_t) * 50


def everywhere(*size):
    return torch.ones(*size, dtype=torch.bool)


def results(folder, part):
    assert (folder / f"results_{part}.md").read_text(encoding="utf-8").startswith("|")
    return json.loads((folder / f"results_{part}.json").read_text(encoding="utf-8"))


def test_the_scan_lies_where_it_was_put():
    volume = make_volume((60, 76, 50), seed=3)
    # of the room of 12, 20 and 10 voxels: 0.2, 0.7 and 0.6
    assert [(s.start, s.stop) for s in volume.box] == [(2, 50), (14, 70), (6, 46)]
    assert np.array_equal(volume.image[volume.box], volume.scan.image)
    assert np.unravel_index(volume.image.argmax(), volume.image.shape) == tuple(
        a + s.start for a, s in zip(np.unravel_index(volume.scan.image.argmax(), (48, 56, 40)), volume.box, strict=True)
    )
    outside = np.ones(volume.image.shape, bool)
    outside[volume.box] = False
    assert volume.image[outside].mean() == pytest.approx(200, abs=0.2)
    assert volume.image[outside].std() == pytest.approx(15, abs=0.2)
    given = volume.tensor()[0, 0][volume.box]
    assert given.mean().item() == pytest.approx(0, abs=1e-4)
    assert given.std().item() == pytest.approx(1, abs=1e-4)


def test_a_volume_without_room_is_told():
    with pytest.raises(UserError, match=r"size: found \[40, 64, 64\], expected at least \[48, 56, 40\]"):
        make_volume((40, 64, 64))


def test_borders_drawn_by_hand():
    # windows 0-4, 2-6 and 4-8 along the first axis, one along the others
    assert window_borders(WindowPlan((8, 4, 4), (4, 4, 4))) == [[2, 4, 6], [], []]


def test_windows_hand_over_half_way():
    # centres at 2, 4 and 6 along the first axis
    assert handover_planes(WindowPlan((8, 4, 4), (4, 4, 4)), reach=0) == [[3, 5], [], []]
    assert handover_planes(WindowPlan((8, 4, 4), (4, 4, 4)), reach=1) == [[2, 3, 4, 5, 6], [], []]


def test_a_ramp_has_no_seam():
    ramp = torch.arange(8.0).view(8, 1, 1) + 2 * torch.arange(6.0).view(6, 1) + 3 * torch.arange(4.0)
    borders = [[2, 4, 6], [3], [2]]
    expected = {"x": 1, "y": 1, "z": 1}
    found = seam_energy(ramp, borders, everywhere(8, 6, 4))
    assert {axis: found[axis] for axis in "xyz"} == pytest.approx(expected)
    # over all axes the mean step is weighted by pairs: at borders 72 of 1, 32 of 2, 48 of 3, elsewhere 96, 128 and 96
    assert found["overall"] == pytest.approx(((72 + 64 + 144) / 152) / ((96 + 256 + 288) / 320))
    assert seam_energy(torch.stack([ramp, 5 * ramp]), borders, everywhere(8, 6, 4)) == pytest.approx(found)


def test_jumps_of_known_height():
    steps = torch.ones(9)
    steps[[2, 5]] = torch.tensor([3.0, -7.0])  # before voxels 3 and 6
    line = torch.cat([torch.zeros(1), steps.cumsum(0)]).view(10, 1, 1).expand(10, 3, 3)
    found = seam_energy(line, [[3, 6], [], []], everywhere(10, 3, 3))
    assert found["x"] == pytest.approx(5)  # (3 + 7) / 2, and 1 elsewhere
    assert math.isnan(found["y"])  # no border
    # along y and z 120 pairs without any difference
    assert found["overall"] == pytest.approx(5 / (63 / (63 + 60 + 60)))
    region = everywhere(10, 3, 3)
    region[6:] = False  # both voxels of a pair are asked for: the second jump is out
    assert seam_energy(line, [[3, 6], [], []], region)["x"] == pytest.approx(3)


def test_voxels_near_a_border():
    near = near_borders((12, 2, 2), [[2, 8], [], []], reach=3)
    assert near[:, 0, 0].tolist() == [True] * 11 + [False]  # 0-4 and 5-10
    assert near.all(dim=(1, 2)).equal(near.any(dim=(1, 2)))


def test_spread_is_kept_or_halved():
    plan = WindowPlan((8, 4, 4), (4, 4, 4), mode="constant")
    shares = shares_squared(plan)
    assert shares[:, 0, 0].tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5, 1, 1]
    known = torch.rand(8, 4, 4) + 0.1
    assert spread_kept(3 * known, known, plan, everywhere(8, 4, 4)) == pytest.approx(1)
    assert spread_kept(known * shares, known, plan, everywhere(8, 4, 4)) == pytest.approx(0.5)


def test_own_noise_averages_the_spread_away_where_windows_overlap():
    network = PDDDPM(Threshold(), Denoiser(believes_state=True), time_steps=[999])
    inferer = PDDDPMInferer((4, 8, 8), [999], members=64, mode="constant", precision="float32")
    image = torch.randn(1, 1, 8, 8, 8).sign()
    preseg = network.segment(image)[0]
    mean, variance = with_own_noise(inferer, network, image, preseg)
    assert mean.sum(0).allclose(torch.ones(8, 8, 8))
    one, two = variance[0][[0, 1, 6, 7]].mean(), variance[0][2:6].mean()
    assert float(two / one) == pytest.approx(0.5, abs=0.05)


def test_own_noise_of_a_denoiser_that_knows():
    network = PDDDPM(Threshold(), Denoiser(believes_state=False), time_steps=[999])
    inferer = PDDDPMInferer((4, 8, 8), [999], members=2, precision="float32")
    image = torch.randn(1, 1, 8, 8, 8).sign()
    mean, variance = with_own_noise(inferer, network, image, network.segment(image)[0])
    assert torch.equal(mean.argmax(0), (image[0, 0] > 0).long())
    assert variance.abs().max() < 1e-6


@pytest.mark.slow
def test_cost_runs(tmp_path):
    lines = cost(TINY, members=1, num_steps=1, repeats=2, folder=tmp_path)
    assert [(x["active"], x["fusion"], x["runs"]) for x in lines] == [
        ("all", "window", 1),
        ("presegmentation", "window", 2),
        ("presegmentation", "step", 2),
    ]
    assert all(x["windows_run"] + x["windows_skipped"] == 8 for x in lines)
    assert lines[0]["windows_skipped"] == lines[0]["largest_difference"] == 0
    assert lines[0]["dice"] == lines[0]["times_faster"] == 1
    assert results(tmp_path, "cost")["rows"] == lines


def test_memory_of_one_ensemble():
    found = memory_of(TINY, members=2, num_steps=1, fusion="window", return_members=True)
    assert found["peak"] >= found["before"] > 0
    assert found["output"] == pytest.approx(3 * (3 + 2) * 64 * 64 * 48 * 4 / 2**20)


@pytest.mark.slow
def test_memory_runs_in_processes_of_its_own(tmp_path):
    lines = memory(TINY, num_steps=1, ensembles=((1, False), (2, True)), fusions=("step",), folder=tmp_path)
    assert [(x["members"], x["return_members"]) for x in lines] == [(1, False), (2, True)]
    assert lines[0]["growth_percent"] == 0
    assert results(tmp_path, "memory")["rows"] == lines


def test_memory_tells_a_process_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(script.sys, "executable", "false")
    with pytest.raises(UserError, match="process with 1 members, window, ended with 1"):
        memory(TINY, folder=tmp_path)


@pytest.mark.slow
def test_seams_run(tmp_path):
    lines = seams(TINY, {"members": 2, "num_steps": 1}, tmp_path)
    names = ["window", "step", "own noise", "own noise, constant", "one window", "the law"]
    assert [x["name"] for x in lines] == names
    assert lines[-1]["spread_kept"] == pytest.approx(1)
    assert lines[-1]["dice_near_borders"] == lines[-1]["dice_elsewhere"] == 1
    assert results(tmp_path, "seams")["borders"] == [[16, 48], [8, 56], [8, 40]]
    assert (tmp_path / "results_seams.png").stat().st_size > 0


@pytest.mark.slow
def test_case_runs(tmp_path):
    data = write_phantom(tmp_path / "data", train=1, validation=2, test=0, series=0, annotations=1, progress=False)
    model_file = script.PHANTOM / "models" / "model.pt"
    lines = case(script.PHANTOM, model_file, data, cases=1, overrides={"members": 2, "num_steps": 1}, folder=tmp_path)
    assert [x["settings"] for x in lines] == list(script.CASE_SETTINGS)
    assert all(len(x["cases"]) == 1 and 0 <= x["mean"]["dice"] <= 1 for x in lines)
    assert lines[0]["mean"]["windows_run"] == 1
    # a scan of one window, active throughout: nothing depends on the settings
    assert {round(x["mean"]["nll"], 5) for x in lines[:6] if x["mean"]["windows_run"] == 1} == {
        round(lines[0]["mean"]["nll"], 5)
    }
    assert len(results(tmp_path, "case")["rows"]) == 7


def test_case_needs_scans(tmp_path):
    with pytest.raises(UserError, match="dataset_dir: found none"):
        main(["--parts", "case", "--output_dir", str(tmp_path)])
