"""Bundles without a segmenter: trained on the pre-segmentations of another program, with one line per mistake."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from monai_pdddpm.__main__ import main
from monai_pdddpm.data import check_presegmentations
from monai_pdddpm.data.presegmentations import leakage
from monai_pdddpm.utils.errors import UserError, user_message

from .conftest import a_label, change, config, run, write_scan


def shifted(label, voxels=1):
    return np.roll(label, voxels, axis=1)


@pytest.fixture
def dataset(decathlon, tmp_path):
    """Six cases with the values 0, 2 and 5, and a folder with shifted label maps as their pre-segmentations."""
    root = decathlon(cases=6, values=(0, 2, 5), test=["imagesTr/case_5.nii.gz"])
    for file in (root / "labelsTr").iterdir():
        write_scan(tmp_path / "pre" / file.name, shifted(np.asarray(nib.load(file).dataobj)))
    return root


@pytest.fixture
def create(dataset, tmp_path, capsys):
    """Run create-bundle; return exit code, output, and the bundle's folder."""

    def run(*words, data=dataset):
        place = ["--dataset", str(data), "--output_dir", str(tmp_path / "b"), "--memory", "8", "--quiet", "--json"]
        code = main(["create-bundle", "boxes_segmentation", *place, *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == 0 else err, tmp_path / "b" / "boxes_segmentation"

    return run


class TestPresegmentations:
    def test_bundle_without_a_segmenter(self, create, tmp_path):
        code, found, folder = create("--presegmentations", tmp_path / "pre")
        assert code == 0
        assert config(folder, "train")["presegmentation_dir"] == str(tmp_path / "pre")
        assert config(folder, "inference")["segmenter_def"] == {"_target_": "monai_pdddpm.networks.NoSegmenter"}
        there = {file.name for file in (folder / "configs").iterdir()}
        assert not {"train_segmenter.json", "export.json"} & there
        assert found["commands"][-1].endswith("--dataset_dir <scans> --presegmentation_dir <presegmentations>")
        # boxes of 10, 9, 8, 10, 9 and 8 voxels that were moved by one
        assert "pre-segmentations: mean Dice 0.891 on training, 0.875 on validation" in found["notes"]

    def test_cases_without_a_usable_one_are_left_out(self, create, tmp_path):
        (tmp_path / "pre" / "case_1.nii.gz").unlink()
        write_scan(tmp_path / "pre" / "case_2.nii.gz", a_label((0, 1)))
        code, found, folder = create("--presegmentations", tmp_path / "pre")
        assert code == 0
        notes = [note for note in found["notes"] if note.startswith("left out")]
        assert [note.split(":")[0] for note in notes] == ["left out case_1", "left out case_2"]
        assert "found no pre-segmentation" in notes[0]
        assert "label values 1, expected none but 0, 2, 5" in notes[1]
        listed = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
        assert [Path(entry["label"]).name[:6] for entry in listed["training"]] == ["case 0", "case_3", "case_4"]

    def test_leakage(self, create, dataset, tmp_path):
        for name in ("case_1", "case_2", "case_3", "case_4"):
            shutil.copy(dataset / "labelsTr" / f"{name}.nii.gz", tmp_path / "pre")
        code, found, _ = create("--presegmentations", tmp_path / "pre")
        assert code == 0
        assert "leakage: 4 pre-segmentations equal their label maps; give predictions of a network" in found["notes"]

    def test_training_cases_that_fit_better(self, create, dataset, tmp_path):
        for number in (3, 4, 5):
            write_scan(tmp_path / "pre" / f"case_{number}.nii.gz", shifted(a_label((0, 2, 5), number=number), 5))
        training = change(dataset)["training"]
        change(dataset, training=training[:3], validation=training[3:])
        code, found, _ = create("--presegmentations", tmp_path / "pre")
        assert code == 0
        assert any(note.startswith("leakage: training cases fit better") for note in found["notes"])

    def test_predicted_by_a_network_of_the_same_data_set(self, create, dataset, tmp_path):
        for name, content in (("predict_from_raw_data_args", {}), ("plans", {"dataset_name": dataset.name})):
            (tmp_path / "pre" / f"{name}.json").write_text(json.dumps(content))
        code, found, _ = create("--presegmentations", tmp_path / "pre")
        assert code == 0
        assert any("was predicted by a network that was trained on decathlon itself" in n for n in found["notes"])

    def test_predicted_by_a_network_of_the_same_data_set_under_another_name(self, create, dataset, tmp_path):
        for name, content in (("predict_from_raw_data_args", {}), ("plans", {"dataset_name": "Dataset001"})):
            (tmp_path / "pre" / f"{name}.json").write_text(json.dumps(content))
        shutil.copy(dataset / "dataset.json", tmp_path / "pre")
        _, found, folder = create("--presegmentations", tmp_path / "pre")
        assert any("was predicted by a network that was trained on Dataset001 itself" in n for n in found["notes"])
        assert leakage(tmp_path / "pre", folder / "data")
        (tmp_path / "pre" / "dataset.json").write_text("{}")
        assert not leakage(tmp_path / "pre", folder / "data")

    def test_leakage_at_evaluation(self, create, dataset, tmp_path, capsys):
        _, _, folder = create("--presegmentations", tmp_path / "pre")
        for name, content in (("predict_from_raw_data_args", {}), ("plans", {"dataset_name": dataset.name})):
            (tmp_path / "pre" / f"{name}.json").write_text(json.dumps(content))
        for place in (dataset, dataset / "dataset.json", folder / "data"):  # the bundle's list names the root
            check_presegmentations(str(tmp_path / "pre"), str(place), [])
            assert "warning: leakage" in capsys.readouterr().out
        check_presegmentations("", str(dataset), [{"image": "a/t1.nii"}, {"image": "b/t1.nii"}])
        frames = [{"image": "a/t1.nii", "frame": number} for number in range(2)]
        check_presegmentations(str(tmp_path / "pre"), str(tmp_path), frames)
        assert capsys.readouterr().out == ""
        files = [str(folder / "configs" / f"{name}.json") for name in ("inference", "evaluate")]
        workflow = ConfigWorkflow(files, workflow_type="infer", bundle_root=str(folder), run_id="evaluating")
        workflow.initialize()
        warn, run = workflow.parser["evaluating"]
        assert run == "@run"  # after the warning
        workflow.parser.get_parsed_content("evaluating::0")
        assert "warning: leakage" in capsys.readouterr().out, warn

    def test_two_cases_of_one_name(self, create, dataset, tmp_path):
        _, _, folder = create("--presegmentations", tmp_path / "pre")
        (dataset / "more").mkdir()
        shutil.copy(dataset / "imagesTr" / "case_2.nii.gz", dataset / "more" / "case_1.nii.gz")
        for file in (dataset / "dataset.json", folder / "data" / "dataset.json"):
            content = json.loads(file.read_text())
            for key in ("training", "validation"):
                for entry in content.get(key, []):
                    entry["image"] = entry["image"].replace("imagesTr/case_2", "more/case_1")
            content["validation"] = content["training"]
            file.write_text(json.dumps(content))
        message = r"case_1\.nii\.gz and .*case_1\.nii\.gz: both have the name 'case_1'"
        for *names, kind, run_id in (
            ("train", "train", "training"),
            ("inference", "evaluate", "infer", "evaluating"),
            ("inference", "calibrate", "infer", "calibrating"),
        ):
            files = [str(folder / "configs" / f"{name}.json") for name in names]
            workflow = ConfigWorkflow(files, workflow_type=kind, bundle_root=str(folder), run_id=run_id)
            workflow.initialize()
            with pytest.raises(RuntimeError) as caught:  # MONAI's, about the expression
                workflow.run()
            assert re.search(message, user_message(caught.value))
        shutil.rmtree(folder)
        code, error, _ = create("--presegmentations", tmp_path / "pre")
        assert (code, bool(re.search(message, error))) == (1, True)

    def test_axes_in_another_order(self, create, dataset, tmp_path):
        for file in (tmp_path / "pre").iterdir():
            write_scan(file, shifted(np.asarray(nib.load(file).dataobj), 12))
        _, found, _ = create("--presegmentations", tmp_path / "pre")
        assert "they hardly overlap their label maps; check the order of their channels and axes" in found["notes"]

    def test_none_is_usable(self, create, tmp_path):
        shutil.rmtree(tmp_path / "pre")
        (tmp_path / "pre").mkdir()
        code, line, folder = create("--presegmentations", tmp_path / "pre")
        assert code == 1
        assert "found no usable pre-segmentation of a training case" in line
        assert len(line.splitlines()) == 1
        assert not folder.exists()

    def test_two_first_stages(self, create, tmp_path):
        code, line, _ = create("--presegmentations", tmp_path / "pre", "--nnunet", tmp_path / "pre")
        assert code == 1
        assert line == "error: --nnunet: found --presegmentations beside it, expected one of them; remove one\n"


class TestNNUNet:
    @pytest.fixture
    def results(self, nnunet, tmp_path):
        """A trained folder for a data set of four cases: two folds, with label maps of their validation cases."""
        data, folder = nnunet(), tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
        for number in range(4):
            label = nib.load(data / "labelsTr" / f"box_{number:03d}.nii.gz")
            file = folder / f"fold_{number // 2}" / "validation" / f"box_{number:03d}.nii.gz"
            write_scan(file, shifted(np.asarray(label.dataobj)))
        shutil.copy(data / "dataset.json", folder)
        (folder / "plans.json").write_text(json.dumps({"dataset_name": data.name}))
        return data, folder

    def test_out_of_fold_predictions(self, create, results):
        data, folder = results
        code, found, made = create("--nnunet", folder, data=data)
        assert code == 0
        assert not any("leakage" in note or "left out" in note for note in found["notes"])
        assert any(note.startswith("nnU-Net's label maps are softened") for note in found["notes"])
        predict = f"nnUNetv2_predict_from_modelfolder -m {folder} -f 0 1 --save_probabilities -i <scans> "
        assert found["commands"][-2] == predict + "-o <presegmentations>"
        assert config(made, "train")["presegmentation_dir"] == str(folder)
        assert "nnU-Net (version 2) makes a pre-segmentation" in (made / "docs" / "README.md").read_text()

    @pytest.mark.parametrize(
        ("mistake", "message"),
        [
            ("version 1", "found plans.pkl of version 1"),
            ("other folder", "found no plans.json"),
            ("missing fold", "found no fold_0"),
            ("not validated", "found no predictions in .*fold_1/validation.* --val --npz"),
            ("channel order", r"the channels \('FLAIR', 'T1'\), expected \('T1', 'FLAIR'\)"),
            ("labels", "a network for the labels {'background': 0, 'sphere': 1}"),
            ("regions", "a network for regions"),
        ],
    )
    def test_mistakes(self, create, results, mistake, message):
        data, folder = results
        if mistake in ("version 1", "other folder"):
            (folder / "plans.json").unlink()
        if mistake == "version 1":
            (folder / "plans.pkl").write_bytes(b"")
        if mistake in ("missing fold", "not validated"):
            shutil.rmtree(folder / ("fold_0" if mistake == "missing fold" else "fold_1/validation"))
        if mistake == "channel order":
            change(folder, channel_names={"0": "FLAIR", "1": "T1"})
        if mistake == "labels":
            change(folder, labels={"background": 0, "sphere": 1})
        if mistake == "regions":
            change(folder, labels={"background": 0, "whole": [1, 2]})
        code, line, _ = create("--nnunet", folder, data=data)
        assert code == 1
        assert len(line.splitlines()) == 1
        assert re.search(message, line), line

    def test_ignored_voxels(self, create, results):
        data, folder = results
        for place in (data, folder):
            change(place, labels={"background": 0, "box": 1, "Ignore": 2})
        code, found, made = create("--nnunet", folder, data=data)
        assert (code, config(made)["labels"]) == (0, {"0": "background", "1": "box"}), found

    def test_case_in_two_folds(self, create, results):
        data, folder = results
        shutil.copy(folder / "fold_0" / "validation" / "box_000.nii.gz", folder / "fold_1" / "validation")
        code, found, _ = create("--nnunet", folder, data=data)
        assert code == 0
        assert any(re.match("left out box_000: .*fold_0.*beside it, expected one", note) for note in found["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["label map", "masks"])
def test_training_evaluation_and_inference(create, dataset, tmp_path, form):
    given = np.asarray(nib.load(tmp_path / "pre" / "case_5.nii.gz").dataobj)
    if form == "masks":  # as TotalSegmentator writes them
        for file in list((tmp_path / "pre").iterdir()):
            label = np.asarray(nib.load(file).dataobj)
            for name, value in (("a", 2), ("b", 5), ("c", 7)):
                mask = (label == value).astype(np.uint8)
                write_scan(file.with_name(file.name.removesuffix(".nii.gz")) / f"{name}.nii.gz", mask)
            file.unlink()
    code, _, folder = create("--presegmentations", tmp_path / "pre")
    assert code == 0

    run(folder, "train", max_epochs=1, **{"train::sampler::num_samples": 4})
    run(folder, "inference", "evaluate", members=1, num_steps=1)
    table = (folder / "eval" / "evaluation_cases.csv").read_text().splitlines()
    assert any(line.startswith("case_5,segmenter,a,0.875") for line in table)  # the pre-segmentation from disk
    run(folder, "inference", members=1, num_steps=1)
    made = folder / "output" / "case_5"
    assert (np.asarray(nib.load(made / "case_5_preseg.nii.gz").dataobj) == given).all()
    report = json.loads((made / "case_5_report.json").read_text())
    name = "case_5" if form == "masks" else "case_5.nii.gz"
    assert report["presegmentation"]["file"] == str(tmp_path / "pre" / name)
    with pytest.raises((UserError, RuntimeError)):  # MONAI wraps the error in some versions
        run(folder, "inference", members=1, presegmentation_dir=str(tmp_path), output_dir=str(tmp_path / "other"))
    failure = json.loads((tmp_path / "other" / "failures" / "case_5.json").read_text())
    assert failure["error"].startswith(f"{tmp_path}: found no pre-segmentation of case_5")
