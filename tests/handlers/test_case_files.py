"""The report says what was done in numbers that can be checked by hand, and is the last file of its case."""

import hashlib
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, LoadImaged, Orientationd

import monai_pdddpm
from monai_pdddpm.data import CaseDataset, case_collate, pending_cases
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.handlers import CaseFiles
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.metrics.recalibration import Calibration
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.transforms import CaseSummaryd, EnsembleMapsd, SaveImageMapsd
from monai_pdddpm.utils.atomic_write import write_json
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.visualize.case_view import case_view

LABELS = {"0": "background", "1": "lesion"}
SETTINGS = {"members": 3, "seed": 5}
SPACING = (0.5, 2.0, 5.0)  # 0.005 mL a voxel
SIZE = (12, 10, 6)


class Threshold(torch.nn.Module):
    """Foreground where the image is above 0."""

    def forward(self, image):
        return torch.cat([-9 * image.sign(), 9 * image.sign()], dim=1)


class Local(torch.nn.Module):
    """Sure of the presegmentation, but for the noise."""

    num_classes = 2
    divisor = 1

    def encode(self, image, presegmentation):
        return [presegmentation]

    def denoise(self, x_t, t, features, solver, solver_steps):
        return 4 * features[0] + 2 * x_t


@pytest.fixture
def cases(tmp_path):
    affine = np.diag((-SPACING[0], SPACING[1], SPACING[2], 1.0))  # seen from the other side
    for number, name in enumerate(("one", "two")):
        array = np.full(SIZE, -1, np.float32)
        array[2 : 6 + number, 3:8, 1:4] = 1  # 60 and 75 voxels
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return [{"image": str(tmp_path / f"{name}.nii.gz")} for name in ("one", "two")]


def record(settings=SETTINGS):
    parts = {part: {"sha256": part} for part in ("code", "bundle", "weights")}
    return {"id": "1", "settings": settings, "calibration": None, **parts}


def run(cases, out, settings=SETTINGS, outputs="seg", save=True, before=None, inferer=None, calibration=None):
    """Infer as a bundle does; ``before`` is called before the report is written."""
    orient = Orientationd("image", "RAS", labels=None)
    read = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), CopyItemsd("image", names="scan"), orient])
    steps = [EnsembleMapsd("pred", 2), CaseSummaryd("seg", LABELS, calibration=calibration)]
    if save:
        steps.append(SaveImageMapsd(out, LABELS, outputs="seg"))
    engine = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(cases, read), batch_size=1, collate_fn=case_collate),
        network=PDDDPM(Threshold(), Local(), time_steps=[800, 300]),
        inferer=inferer
        or PDDDPMInferer(
            roi_size=(8, 8, 6),
            time_steps=[800, 300],
            members=3,
            seed=5,
            precision="float32",
            return_members=True,
            progress=False,
        ),
        postprocessing=Compose(steps),
    )
    if before:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, before)
    CaseFiles(out, LABELS, record(settings), outputs=outputs).attach(engine)
    engine.run()


def report(out, case="one"):
    text = (out / case / f"{case}_report.json").read_text(encoding="utf-8")
    assert text.startswith(f'{{\n  "case": "{case}"')
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_a_case_unlike_the_usual_is_told(cases, tmp_path, caplog):
    run(cases, tmp_path / "out", calibration=Calibration(ranges={"volume of lesion (mL)": (0.32, 1.0)}))
    (told,) = [record.message for record in caplog.records if "unlike" in record.message]
    # 60 and 75 voxels of 0.005 mL
    assert told.startswith("one: unlike the calibration cases (volume of lesion (mL): found 0.3, 0.32 to 1 is")
    assert report(tmp_path / "out")["result"]["unlike_usual"]
    assert report(tmp_path / "out", "two")["result"]["unlike_usual"] == []


def test_content(cases, tmp_path):
    out = tmp_path / "out"
    run(cases, out)
    for case, voxels in (("one", 60), ("two", 75)):
        found = report(out, case)
        assert found["case"] == case
        assert found["image"] == str(tmp_path / f"{case}.nii.gz")
        assert found["labels"] == {"1": "lesion"}
        assert found["settings"] == SETTINGS
        seg = nib.load(out / case / f"{case}_seg.nii.gz").get_fdata()
        assert seg.sum() == voxels
        volume = found["result"]["volume_ml"]["lesion"]
        assert volume["segmentation"] == pytest.approx(voxels * 0.5 * 2 * 5 / 1000)
        assert volume["members_min"] <= volume["members_mean"] <= volume["members_max"]
        assert found["inference"]["members"] == 3
        assert found["inference"]["seed"] == 5
        assert found["inference"]["time_steps"] == [800, 300]
        assert found["inference"]["windows_run"] == 1  # the content fits in one window
        assert "seconds" not in found["inference"]
        stages = {"read and preprocess", "segment", "noise", "encode", "chain", "blend", "statistics"}
        assert set(found["seconds"]) == stages | {"inverse and write"}
        assert all(0 <= value < 600 for value in found["seconds"].values())
        content = (tmp_path / f"out/{case}/{case}_seg.nii.gz").read_bytes()
        assert found["files"] == {f"{case}_seg.nii.gz": hashlib.sha256(content).hexdigest()}
        scan = tmp_path / f"{case}.nii.gz"
        assert found["inputs"] == {str(scan): hashlib.sha256(scan.read_bytes()).hexdigest()}
        made_by = {"run": "1", "code": "code", "bundle": "bundle", "weights": "weights", "calibration": None}
        assert found["made_by"] == made_by
        assert found["device"].startswith("cpu (")
        assert 50 < found["peak_memory_mib"] < 10**6
        assert found["versions"]["monai_pdddpm"] == monai_pdddpm.__version__
        assert found["versions"]["torch"] == version("torch")


def test_picture_is_drawn_and_listed(cases, tmp_path):
    run(cases[:1], tmp_path / "out", outputs="overview")
    assert (tmp_path / "out/one/one_overview.png").read_bytes().startswith(b"\x89PNG")
    found = report(tmp_path / "out")
    assert list(found["files"]) == ["one_overview.png", "one_seg.nii.gz"]
    assert found["outputs"] == ["overview", "seg"]
    assert "overview" in found["seconds"]


def test_viewer_page_and_slices_are_written_and_listed(cases, tmp_path):
    pytest.importorskip("ipyniivue")
    run(cases[:1], tmp_path / "out", outputs=["viewer", "slices"])
    found = report(tmp_path / "out")
    assert list(found["files"]) == ["one_seg.nii.gz", "one_slices.csv", "one_viewer.html"]
    assert "<title>one</title>" in (tmp_path / "out/one/one_viewer.html").read_text(encoding="utf-8")
    # three slices of 20 voxels of 1 mm2
    assert (tmp_path / "out/one/one_slices.csv").read_text().count(",lesion,20.0,") == 3
    assert "viewer" in found["seconds"]


def test_without_the_extra_the_viewer_page_is_left_out(cases, tmp_path, monkeypatch, caplog):
    def missing():
        raise UserError("ipyniivue: found no installation")

    monkeypatch.setattr("monai_pdddpm.handlers.case_files.niivue", missing)
    with caplog.at_level(logging.INFO):
        run(cases[:1], tmp_path / "out", outputs="default")
    assert caplog.text.count("no viewer pages are written: ipyniivue: found no installation") == 1
    assert "one_viewer.html" not in report(tmp_path / "out")["files"]


def test_pictures_show_the_frame_with_the_most_uncertainty():
    seg = torch.zeros(1, 4, 3, 2, 3)
    entropy = torch.zeros(1, 4, 3, 2, 3)
    seg[0, 1, 1, 1, 2], entropy[..., 2] = 1, 0.5
    item = {
        "image": MetaTensor(torch.zeros(3, 4, 3, 2), meta={"filename_or_obj": "cine.nii.gz"}),
        "seg": MetaTensor(seg, affine=torch.diag(torch.tensor([1.0, 2, 3, 1]))),
        "entropy": entropy,
        "members": torch.cat([seg, seg]),
        "variance": entropy / 2,
        "ensemble_run": SimpleNamespace(frames=3),
    }
    view = case_view(item, torch.arange(3.0)[:, None, None, None].expand(3, 4, 3, 2), {1: "lesion"})
    assert view.title == "cine, frame 2 (0 to 2)"
    assert (view.image == 2).all()
    assert view.seg.sum() == 1
    assert view.members.shape == (2, 4, 3, 2)
    assert view.variance.shape == (1, 4, 3, 2)
    assert view.entropy.min() == 0.5
    assert view.affine[1, 1] == 2
    assert view.preseg is None


def test_report_is_the_last_file(cases, tmp_path):
    seen = []
    run(cases, tmp_path / "out", before=lambda engine: seen.append(sorted(os.listdir(sorted_last(tmp_path / "out")))))
    assert seen == [["one_seg.nii.gz"], ["two_seg.nii.gz"]]
    for case in ("one", "two"):
        folder = tmp_path / "out" / case
        assert max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name == f"{case}_report.json"


def sorted_last(out):
    return sorted(out.iterdir())[-1]


def test_a_finished_case_is_skipped_and_done_again_only_when_asked(cases, tmp_path):
    out = tmp_path / "out"
    run(cases[:1], out)
    assert pending_cases(cases, out, record()) == [cases[1]]
    with pytest.raises(UserError, match="found results made with seed=5, expected seed=6"):
        pending_cases(cases, out, record(SETTINGS | {"seed": 6}))
    first = report(out)
    run(pending_cases(cases, out, record(SETTINGS | {"seed": 6}), overwrite=True), out, SETTINGS | {"seed": 6})
    assert report(out)["settings"]["seed"] == 6
    assert first["settings"]["seed"] == 5
    assert sorted(os.listdir(out / "one")) == ["one_report.json", "one_seg.nii.gz"]


def test_a_case_is_unfinished_from_the_first_file_that_is_removed(cases, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(cases, out)

    def unlink(path, missing_ok=False):
        if path.suffix == ".gz":
            raise KeyboardInterrupt
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        run(cases[:1], out)
    assert pending_cases(cases, out, record()) == cases[:1]


def test_files_that_only_the_earlier_run_wrote_are_removed(cases, tmp_path):
    out = tmp_path / "out"
    run(cases[:1], out, outputs="overview,slices")
    run(cases[:1], out, SETTINGS | {"seed": 6}, outputs="overview")
    assert sorted(os.listdir(out / "one")) == ["one_overview.png", "one_report.json", "one_seg.nii.gz"]


MINE = ("IM0001", "mine.txt", "one_seg_corrected_by_me.nii.gz", "one_seg.nii", "two_seg.nii.gz")


def test_other_files_are_neither_recorded_nor_removed(cases, tmp_path):
    out = tmp_path / "out"
    for name in ("notes", "one_members.nii.gz"):
        (out / "one" / name).mkdir(parents=True)
    for name in MINE:
        (out / "one" / name).write_text(name)
    for seed in (5, 6, 7):
        run(cases[:1], out, SETTINGS | {"seed": seed})
        found = report(out)
        assert list(found["files"]) == ["one_seg.nii.gz"]
        # reports of earlier versions list all files
        write_json(out / "one" / "one_report.json", found | {"files": dict.fromkeys(os.listdir(out / "one"))})
    assert [(out / "one" / name).read_text() for name in MINE] == list(MINE)
    ours = {"notes", "one_members.nii.gz", "one_report.json", "one_seg.nii.gz"}
    assert set(os.listdir(out / "one")) == {*MINE, *ours}


def test_files_that_a_killed_run_left_are_removed(cases, tmp_path):
    out = tmp_path / "out"
    (out / "one").mkdir(parents=True)
    for ending in ("entropy.nii.gz", "seg_frame-03.seg.nrrd", "viewer.html"):
        (out / "one" / f"one_{ending}").write_text("of a killed run")
    run(cases[:1], out)
    assert sorted(os.listdir(out / "one")) == ["one_report.json", "one_seg.nii.gz"]


def test_a_case_that_was_being_done_again_when_the_run_died_is_not_finished(cases, tmp_path):
    out = tmp_path / "out"
    run(cases, out)

    def die(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cases, out, SETTINGS | {"seed": 6}, before=die)
    # new maps lie beside no report; the second case was not touched
    assert pending_cases(cases, out, record()) == [cases[0]]


def test_a_failed_case_has_no_report(cases, tmp_path):
    class Failing(Inferer):
        def __call__(self, inputs, network, *args, **kwargs):
            raise RuntimeError("x")

    with pytest.raises(UserError, match="2 of 2 cases failed"):
        run(cases, tmp_path / "out", inferer=Failing())
    assert not list(tmp_path.glob("out/**/*report.json"))


def test_a_case_that_fails_after_its_maps_leaves_no_file(cases, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(cases, out)
    (out / "two" / "mine.txt").write_text("mine")

    def full(path, figure):
        raise UserError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("monai_pdddpm.handlers.case_files.save_overview", full)
    with pytest.raises(UserError, match="2 of 2 cases failed"):
        run(cases, out, outputs="overview,scene")
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["mine.txt"]
    assert not (out / "one").exists()


def test_a_case_that_fails_before_its_first_file_keeps_its_results(cases, tmp_path):
    out = tmp_path / "out"
    run(cases, out)
    for case in cases:
        Path(case["image"]).write_bytes(b"")
    with pytest.raises(UserError, match="2 of 2 cases failed"):
        run(cases, out)
    assert pending_cases(cases, out, record()) == []
    assert sorted(os.listdir(out / "one")) == ["one_report.json", "one_seg.nii.gz"]


def test_frames_are_named_in_the_report_and_in_one_line(cases, tmp_path, caplog):
    one = nib.load(cases[0]["image"])
    nib.save(nib.Nifti1Image(np.stack([one.get_fdata(dtype=np.float32)] * 2, axis=-1), one.affine), tmp_path / "4d.nii")
    settings = {"roi_size": (8, 8, 6), "time_steps": [800, 300], "members": 2, "precision": "float32"}
    inferer = PDDDPMInferer(**settings, fourth_dimension="time", progress=False)
    run([{"image": str(tmp_path / "4d.nii")}, cases[0]], tmp_path / "out", inferer=inferer)
    note = "2 frames on its fourth axis, segmented one by one"
    assert report(tmp_path / "out", "4d")["notes"] == [note]
    assert report(tmp_path / "out")["notes"] == []
    assert caplog.messages.count(f"4d: {note}") == 1
