import csv
import json
import math
import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_pdddpm.data.case import case_of
from monai_pdddpm.handlers.evaluation_report import EvaluationReport
from monai_pdddpm.utils.errors import UserError


def metrics(dice):
    labels = {"lesion": {"dice": dice, "hd95_mm": math.nan, "nsd_1mm": dice}}
    return {"labels": labels, "near structure": {"ece": 0.25}}


def item(name, segmenter=0.5, ensemble=0.75, key="image"):
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": name})
    return {key: image, "metrics": {"segmenter": metrics(segmenter), "ensemble": metrics(ensemble)}}


def run(report, batches):
    engine = Engine(lambda engine, batch: batch)
    report.attach(engine)
    engine.run(batches)


def cases(folder):
    with open(folder / "evaluation_cases.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_files_and_table(tmp_path, capsys):
    run(
        EvaluationReport(tmp_path / "new" / "out"),
        [[item("d/a.nii.gz"), item("d/b.nii.gz", 0.25, 0.5)], [item("c.nii")]],
    )
    folder = tmp_path / "new" / "out"
    assert sorted(os.listdir(folder)) == ["evaluation_cases.csv", "evaluation_summary.json"]
    rows = cases(folder)
    assert len(rows) == 3 * 2 * 2
    assert rows[0] == {
        "case": "a",
        "method": "segmenter",
        "label": "lesion",
        "dice": "0.5",
        "hd95_mm": "nan",
        "nsd_1mm": "0.5",
        "ece": "",
    }
    assert {row["case"] for row in rows} == {"a", "b", "c"}
    summary = json.loads((folder / "evaluation_summary.json").read_text())
    assert summary["cases"] == 3
    assert summary["paired_difference"]["lesion"]["dice"]["low"] == 0.25
    assert summary["methods"]["ensemble"]["lesion"]["hd95_mm"] == {
        "mean": None,
        "low": None,
        "high": None,
        "n": 0,
        "excluded": 3,
        "undefined": 3,
    }
    assert "| lesion | dice | 0.4167 [" in capsys.readouterr().out


def test_voxels_are_calibrated_and_pooled(tmp_path, capsys):
    items = [item("a.nii.gz"), item("b.nii.gz")]
    for found in (method for each in items for method in each["metrics"].values()):
        found["voxels"] = torch.tensor([[0.75, 0.25]]).repeat(8, 1), torch.tensor([0] * 6 + [1] * 2)
    run(EvaluationReport(tmp_path), [items])
    pooled = json.loads((tmp_path / "evaluation_summary.json").read_text())["pooled"]
    assert pooled["ensemble"]["raw"]["ece"] == pytest.approx(0, abs=1e-6)
    assert pooled["segmenter"]["calibrated"]["ece"] == pytest.approx(0, abs=1e-3)  # a temperature of nearly 1
    assert [row["nll"][:5] for row in cases(tmp_path) if row["label"] == "near structure, calibrated"] == ["0.562"] * 4
    assert "segmenter, all voxels together, raw: ECE 0.0000, NLL 0.5623\n" in capsys.readouterr().out


def test_without_other_subjects_the_missing_calibration_is_named(tmp_path, capsys):
    one = item("a.nii.gz")
    for found in one["metrics"].values():
        found["voxels"] = torch.tensor([[0.75, 0.25]]).repeat(8, 1), torch.tensor([0] * 6 + [1] * 2)
    run(EvaluationReport(tmp_path), [[one]])
    assert "calibrated: left out" in capsys.readouterr().out


def test_a_second_run_starts_anew(tmp_path):
    report = EvaluationReport(tmp_path)
    run(report, [[item("a.nii.gz")], [item("b.nii.gz")]])
    run(report, [[item("a.nii.gz", ensemble=1.0)]])
    assert {row["case"] for row in cases(tmp_path)} == {"a"}
    assert cases(tmp_path)[2]["dice"] == "1.0"


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    run(EvaluationReport(tmp_path), [[item("/x/one/flair.nii.gz"), item("/x/two/flair.nii.gz"), item("/y/t1.nii.gz")]])
    names = list(dict.fromkeys(row["case"] for row in cases(tmp_path)))
    assert names == ["/x/one/flair.nii.gz", "/x/two/flair.nii.gz", "t1"]


def test_a_file_that_comes_twice_counts_once(tmp_path):
    run(EvaluationReport(tmp_path), [[item("a.nii.gz")], [item("a.nii.gz", ensemble=1.0)]])
    assert [row["dice"] for row in cases(tmp_path)] == ["0.5", "", "0.75", ""]


def test_subjects_of_the_list_come_before_names(tmp_path):
    items = [item(f"case_{number}.nii.gz") for number in range(1, 5)]  # 1 and 2 are one subject by their names
    for one in (items[1], items[2]):
        one["image"].meta["case"] = replace(case_of(one["image"].meta), subject="Ann")
    run(EvaluationReport(tmp_path, scans_per_subject=2), [items])
    assert json.loads((tmp_path / "evaluation_summary.json").read_text())["subjects"] == 3


def test_no_case_is_an_error(tmp_path):
    with pytest.raises(UserError, match="evaluation: found no evaluated case"):
        run(EvaluationReport(tmp_path), [[]])
    assert not os.listdir(tmp_path)


def test_the_cases_survive_a_summary_that_fails(tmp_path):
    one = item("a.nii.gz")
    one["metrics"]["other"] = one["metrics"].pop("ensemble")
    with pytest.raises(ValueError, match="'ensemble'"):
        run(EvaluationReport(tmp_path), [[one]])
    assert len(cases(tmp_path)) == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_writes_the_cases_of_all(tmp_path, monkeypatch, rank):
    def gather(parts, mine, group=None):
        parts[rank] = mine
        parts[1 - rank] = {("elsewhere.nii.gz", "elsewhere", ""): item("")["metrics"]}

    report = EvaluationReport(tmp_path)
    for name, answer in {"is_initialized": True, "get_rank": rank, "get_world_size": 2}.items():
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    report._metrics = {("here.nii.gz", "here", ""): item("")["metrics"]}
    report.write(None)
    assert (tmp_path / "evaluation_cases.csv").exists() == (rank == 0)
    if rank == 0:
        assert {row["case"] for row in cases(tmp_path)} == {"here", "elsewhere"}
