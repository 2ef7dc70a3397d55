"""The channel layout: each part where the inferer puts it, of one frame or several."""

import dataclasses

import pytest
import torch
from monai.data import MetaTensor, decollate_batch

from monai_pdddpm.inferers import EnsembleConfig, EnsembleOutput, EnsembleRunInfo
from monai_pdddpm.utils.errors import UserError

CONFIG = EnsembleConfig(roi_size=[4, 4], time_steps=[9])


def channel_numbers(count):
    return torch.arange(float(count)).view(-1, 1, 1).expand(count, 2, 3)


def test_parts_of_two_frames_follow_one_another():
    parts = EnsembleOutput(2).split(channel_numbers(16))
    assert {name: part[:, 0, 0].tolist() for name, part in parts.items()} == {
        "pred": [0, 1, 8, 9],
        "member_mean": [2, 3, 10, 11],
        "member_entropy": [4, 12],
        "variance": [5, 13],
        "preseg": [6, 7, 14, 15],
    }


@pytest.mark.parametrize("frames", [1, 3])
def test_join_undoes_split(frames):
    layout = EnsembleOutput(3, members=2)
    output = torch.randn(frames * layout.channels, 4, 5)
    assert torch.equal(layout.join(layout.split(output)), output)


@pytest.mark.parametrize("channels", [0, 15, 17])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(UserError, match=f"pred: found {channels} channels, expected 18 for each frame"):
        EnsembleOutput(3, members=2).split(channel_numbers(channels))


def test_run_info_survives_the_decollation_of_a_batch():
    infos = [
        EnsembleRunInfo(
            config=CONFIG,
            frames=1,
            windows_run=n,
            windows_skipped=0,
            denoiser_evaluations=n,
            processes=1,
            seconds={"chain": 1.5},
        )
        for n in (1, 2)
    ]
    batch = MetaTensor(torch.zeros(2, 1, 3), meta={"ensemble_run": infos})
    batch.is_batch = True
    batch.applied_operations = [[], []]
    found = [item.meta["ensemble_run"] for item in decollate_batch(batch)]
    assert found == infos
    report = found[1].as_report()
    assert (report["windows_run"], report["members"]) == (2, 8)
    assert report["seconds"] == {"chain": 1.5}


@pytest.mark.parametrize(
    ("settings", "answer", "members"),
    [
        ({}, "mean of the first predictions at time index 9", "ends of the chains at time index 2"),
        (
            {"presegmentation_weight": 0.5},
            "mean of the first predictions at time index 9, pre-segmentation weight 0.5",
            "ends of the chains at time index 2",
        ),
        ({"time_steps": []}, "the pre-segmentation", "copies of the pre-segmentation"),
    ],
)
def test_report_names_what_answer_and_members_are(settings, answer, members):
    config = EnsembleConfig(**{"roi_size": [4, 4], "time_steps": [9, 2]} | settings)
    counts = dict.fromkeys(("windows_run", "windows_skipped", "denoiser_evaluations"), 0)
    info = EnsembleRunInfo(config=config, frames=1, processes=1, seconds={}, **counts)
    assert info.meanings() == {"answer": answer, "members": members}
    assert "processes" not in info.as_report()
    assert dataclasses.replace(info, processes=2).as_report()["processes"] == 2
