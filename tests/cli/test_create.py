"""A bundle made for a data set is complete, gives reasons, and runs without editing a file."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.networks.nets import SegResNet

from monai_pdddpm.__main__ import main
from monai_pdddpm.cli.create import create_bundle
from monai_pdddpm.cli.first_stage import FirstStage
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.cli.planner import plan
from monai_pdddpm.cli.segmenter_bundle import read_segmenter
from monai_pdddpm.utils.errors import UserError

from .conftest import change, config, run

SCHEMA = Path(__file__).parents[1] / "bundles" / "meta_schema_20240725.json"
FEW = {"train::sampler::num_samples": 4}


def folder_of(created):
    return Path(created.content["bundle"])


@pytest.fixture
def made(decathlon, tmp_path):
    """Make a bundle for a Decathlon data set of boxes; keywords go to the data set."""

    def make(name="boxes_segmentation", options=None, **more):
        data = read_dataset(decathlon(**more))
        return create_bundle(name, data, tmp_path / "bundles", progress=False, memory=8, **(options or {}))

    return make


class TestBundle:
    def test_complete(self, made):
        created = made(values=(0, 2, 5))
        folder = folder_of(created)
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert {"LICENSE", "docs/README.md", "docs/data_license.txt", "docs/fingerprint.json"} <= there
        assert {f"configs/{name}.json" for name in ("train", "train_segmenter", "inference", "metadata")} <= there
        assert not any("{{" in (folder / file).read_text(encoding="utf-8") for file in there)
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no partial folder
        page = (folder / "docs" / "README.md").read_text(encoding="utf-8")
        assert all(choice["reason"] in page for choice in created.content["choices"])
        headings = [line[2:] for line in page.splitlines() if line.startswith("# ")]
        assert headings[:3] == ["Model Overview", "Data", "Preprocessing"]
        assert headings[-2:] == ["References", "License"]
        assert (folder / "docs" / "data_license.txt").read_text() == "Data: CC0\n"

    def test_metadata_fits_the_schema(self, made):
        jsonschema = pytest.importorskip("jsonschema")
        metadata = config(folder_of(made(channels=("CT",))), "metadata")
        jsonschema.validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
        assert metadata["network_data_format"]["inputs"]["image"]["modality"] == "CT"

    def test_values(self, made, capsys):
        folder = folder_of(made(values=(0, 2, 5), spacing=(1, 1, 2)))
        found = config(folder)
        assert found["spacing"] == [1, 1, 2]
        assert found["roi_size"] == [24, 24, 16]  # 20 x 24 x 16 in multiples of 8
        assert found["labels"] == {"0": "background", "1": "a", "2": "b"}
        for name in ("inference", "train", "train_segmenter"):
            assert config(folder, name)["label_values"] == [0, 2, 5]
        assert main(["info", str(folder)]) == 0
        assert "labels: 0 background, 2 a, 5 b" in capsys.readouterr().out
        listed = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
        assert listed["root"] == str(folder.parents[1] / "decathlon")
        assert listed["labels"] == {"0": "background", "2": "a", "5": "b"}

    @pytest.mark.parametrize(("windows", "batches"), [(100, 50), (None, 2)])
    def test_trains_in_two_processes(self, made, loader_of_two, monkeypatch, windows, batches):
        def planned(*args):
            values, choices = plan(*args)
            return values | {"epoch_windows": windows}, choices

        monkeypatch.setattr("monai_pdddpm.cli.create.plan", planned)
        folder = folder_of(made())
        for stage in ("train_segmenter", "train"):
            assert len(loader_of_two(folder, stage)) == batches

    def test_nnunet(self, nnunet, tmp_path):
        root = nnunet()
        (root / "imagesTr" / "box_001_0001.nii.gz").unlink()
        created = create_bundle("n", read_dataset(root), tmp_path, progress=False)
        assert config(folder_of(created))["missing_channels"] == "zero"
        assert any("FLAIR in 1 of the cases" in line for line in created.lines)
        listed = json.loads((folder_of(created) / "data" / "dataset.json").read_text(encoding="utf-8"))
        assert [len(listed[name]) for name in ("training", "validation", "test")] == [3, 1, 1]
        assert config(folder_of(created))["dataset_dir"] == "$@bundle_root + '/data'"


class TestCommand:
    def test_reports_each_choice(self, decathlon, tmp_path, capsys):
        words = ["create-bundle", "boxes", "--dataset", str(decathlon()), "--output_dir", str(tmp_path / "b")]
        assert main([*words, "--memory", "4", "--json", "--spacing", "2", "2", "2"]) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        spacing = {"name": "spacing", "value": [2, 2, 2], "text": "2 x 2 x 2 mm", "reason": "set by --spacing"}
        assert spacing in found["choices"]
        assert "validation cases: case_3.nii.gz" in found["notes"]
        assert "a calibration needs 6 cases that are not trained on, and 1 are held out: list more" in " ".join(
            found["notes"]
        )
        assert all(choice["reason"] for choice in found["choices"])
        assert "reading scans" in err
        assert main([*words]) == 1  # the folder exists
        assert "expected none; remove it" in capsys.readouterr().err

    def test_quiet(self, decathlon, tmp_path, capsys):
        words = ["create-bundle", "boxes", "--dataset", str(decathlon()), "--output_dir", str(tmp_path / "b")]
        assert main([*words, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "my-task'); x"}, "name: found"),
            ({"spacing": [1, 1, 0]}, "three sizes"),
            ({"memory": 0}, "--memory"),
            ({"cases": 1}, "expected at least two"),
        ],
    )
    def test_settings(self, decathlon, tmp_path, options, message):
        root = decathlon(cases=options.pop("cases", 4))
        options = {"name": "boxes"} | options
        with pytest.raises(UserError, match=message):
            create_bundle(data=read_dataset(root), output_dir=tmp_path / "b", progress=False, **options)
        assert not (tmp_path / "b").exists()

    @pytest.mark.parametrize(
        ("label", "options", "message"),
        [
            ("a", {"segmenter": Path("none"), "spacing": [1, 1, 1]}, r"--spacing: found \[1, 1, 1\] with --segmenter"),
            ("a", {"segmenter": Path("none")}, r"--segmenter: found no configs/inference\.json in none"),
            ("mean", {}, "labels: found .* expected unique names, none of mean"),
            ("a", {"stage": FirstStage(Path("none"))}, "both have the name 'case_1'"),
        ],
    )
    def test_before_scans_are_read(self, decathlon, tmp_path, monkeypatch, label, options, message):
        root = decathlon(names=["background", label])
        if "stage" in options:
            training = change(root)["training"]
            change(root, training=[*training, training[1] | {"image": "more/case_1.nii.gz"}])
        monkeypatch.setattr("monai_pdddpm.cli.create._read_cases", None)
        with pytest.raises(UserError, match=message):
            create_bundle("boxes", read_dataset(root), tmp_path / "b", progress=False, **options)

    def test_one_broken_pair(self, decathlon, tmp_path):
        root = decathlon()
        nib.save(nib.Nifti1Image(np.ones((20, 24, 15), np.uint8), np.eye(4)), root / "labelsTr" / "case_2.nii.gz")
        with pytest.raises(UserError, match=r"label: case_2: .* monai_pdddpm check .* lists"):
            create_bundle("boxes", read_dataset(root), tmp_path / "b", progress=False)
        assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_both_stages_evaluation_and_inference(made):
    folder = folder_of(made(values=(0, 2, 5), test=["imagesTr/case 0 é.nii.gz"]))
    run(folder, "train_segmenter", max_epochs=1, **FEW)
    run(folder, "train", max_epochs=1, **FEW)
    run(folder, "inference", "evaluate", members=1, num_steps=1)
    assert (folder / "eval").is_dir()
    run(folder, "inference", members=1, num_steps=1, outputs="default,seg-nrrd")
    case = folder / "output" / "case 0 é"

    def voxels(kind):
        return np.asanyarray(nib.load(case / f"{case.name}_{kind}.nii.gz").dataobj)

    expected, stored = voxels("seg"), voxels("prob").astype(int)
    low, high = np.sort(stored, axis=-1)[..., -2:].T
    sure = (high - low).T > 3  # the probabilities are rounded to 16 bits
    assert (expected == np.array([0, 2, 5])[stored.argmax(axis=-1)])[sure].all()
    assert (nib.load(case / f"{case.name}_seg.nii.gz").affine == np.eye(4)).all()
    shown = sitk.GetArrayFromImage(sitk.ReadImage(case / f"{case.name}_seg.seg.nrrd"))
    assert (expected == shown.T).all()
    rows = [line.split()[:2] for line in (case / f"{case.name}_seg.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [row for row in rows if row[0] != "0"] == [["2", "a"], ["5", "b"]]


class TestGivenSegmenter:
    @pytest.fixture
    def foreign(self, tmp_path):
        """A bundle in the form of the model zoo; keywords change its inference.json."""

        def make(classes=2, **changes):
            folder = tmp_path / "zoo_segmentation"
            (folder / "configs").mkdir(parents=True)
            (folder / "models").mkdir()
            content = {
                "imports": ["$import glob"],
                "bundle_root": ".",
                "filters": 8,
                "network_def": {
                    "_target_": "SegResNet",
                    "blocks_down": [1, 1],
                    "blocks_up": [1],
                    "init_filters": "@filters",
                    "in_channels": 1,
                    "out_channels": classes,
                },
                "network": "$@network_def.to('cpu')",
                "preprocessing": {
                    "_target_": "Compose",
                    "transforms": [
                        {"_target_": "LoadImaged", "keys": "image"},
                        {"_target_": "EnsureChannelFirstd", "keys": "image"},
                        {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
                        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"},
                        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 200}
                        | {"b_min": 0.0, "b_max": 1.0, "clip": True},
                    ],
                },
                "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
            }
            (folder / "configs" / "inference.json").write_text(json.dumps(content | changes), encoding="utf-8")
            torch.manual_seed(0)
            network = SegResNet(3, 8, 1, classes, blocks_down=[1, 1], blocks_up=[1])
            torch.save(network.state_dict(), folder / "models" / "model.pt")
            return folder

        return make

    def test_its_preprocessing_is_used(self, made, foreign):
        created = made(options={"segmenter": foreign()})
        content = config(folder_of(created))
        assert content["segmenter_def"]["init_filters"] == 8
        assert content["spacing"] == [1.5, 1.5, 2.0]
        assert content["roi_size"] == [16, 16, 16]
        transforms = content["preprocessing"]["transforms"]
        assert [each["axcodes"] for each in transforms if each["_target_"] == "Orientationd"] == ["LPS"]
        assert transforms[-2] == {
            **{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 200},
            **{"b_min": 0.0, "b_max": 1.0, "clip": True},
        }
        assert any("CropForegroundd" in note for note in created.content["notes"])
        assert not (folder_of(created) / "configs" / "train_segmenter.json").exists()
        assert not any("train_segmenter" in command for command in created.content["commands"])

    def test_without_orientation_and_spacing(self, made, foreign):
        content = config(folder_of(made(options={"segmenter": foreign(preprocessing={"transforms": []})})))
        kinds = [each["_target_"] for each in content["preprocessing"]["transforms"]]
        assert kinds[-3:-1] == ["Identityd", "Identityd"]

    @pytest.mark.slow
    def test_the_denoiser_is_trained_behind_it(self, made, foreign):
        bundle = foreign()
        folder = folder_of(made(options={"segmenter": bundle}, test=["imagesTr/case_3.nii.gz"]))
        run(folder, "train", max_epochs=1, **FEW)
        given = torch.load(bundle / "models" / "model.pt", weights_only=True)
        pair = torch.load(folder / "models" / "model.pt", weights_only=True)
        own = {name.removeprefix("segmenter."): w for name, w in pair.items() if name.startswith("segmenter.")}
        assert own.keys() == given.keys()
        assert all(torch.equal(own[name], given[name]) for name in given)
        run(folder, "inference", members=1, num_steps=1)
        assert (folder / "output" / "case_3" / "case_3_preseg.nii.gz").is_file()

    def test_expressions_are_replaced_by_their_values(self, foreign, capsys):
        given = read_segmenter(foreign(filters="$2 * 4", classes=3), 1, 3)
        assert given.definition["init_filters"] == 8
        assert (given.orientation, given.spacing, given.divisor) == ("LPS", [1.5, 1.5, 2.0], 16)
        assert "runs the code that the bundle's author wrote" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"network_def": {"_target_": "scripts.Net"}}, "Cannot locate class"),
            ({"network_def": {"_target_": "SegResNet", "in_channels": "@gone"}}, "not defined"),
            ({"network_def": "$monai.networks.nets.SegResNet()"}, "is not JSON"),
            ({"preprocessing": {"transforms": [{"_target_": "scripts.Own", "keys": "image"}]}}, "Cannot locate class"),
            ({"preprocessing": "$[]"}, "cannot be read"),
            ({"network_def": {"_target_": "SegResNet", "init_filters": 16}}, "weights of another network"),
        ],
    )
    def test_unusable_bundles_are_refused(self, foreign, changes, message):
        with pytest.raises(UserError, match=message):
            read_segmenter(foreign(**changes), 1, 2)

    def test_other_classes_and_channels(self, foreign):
        folder = foreign(classes=4)
        with pytest.raises(UserError, match=r"found 4 output channels .* expected 2"):
            read_segmenter(folder, 1, 2)
        with pytest.raises(UserError, match="fails on 3 channels"):
            read_segmenter(folder, 3, 4)
