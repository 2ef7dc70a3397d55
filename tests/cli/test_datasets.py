"""Three forms of data sets are read into one, and written in the form that the pipeline reads."""

import json
from pathlib import Path

import pytest

from monai_pdddpm.cli.datasets import as_decathlon, check_name
from monai_pdddpm.cli.formats import read_dataset
from monai_pdddpm.data import labelled_cases
from monai_pdddpm.utils.errors import UserError

from .conftest import change


def kinds(dataset):
    return [finding.kind for finding in dataset.findings]


def listed(dataset, folder):
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(as_decathlon(dataset)), encoding="utf-8")
    return folder


class TestDecathlon:
    @pytest.mark.parametrize("entry", ["", "dataset.json"])
    def test_read(self, decathlon, entry):
        root = decathlon(values=(0, 2, 5), test=["imagesTr/case_1.nii.gz"])
        found = read_dataset(root / entry)
        assert (found.form, found.channels) == ("decathlon", ("MRI",))
        assert found.labels == {0: "background", 2: "a", 5: "b"}
        assert [case.list_key for case in found.cases] == ["training"] * 4 + ["test"]
        assert found.about == {"title": "Boxes", "license": "CC0"}
        assert found.cases[0].case.name == "case 0 é"

    def test_missing_files_and_lists(self, decathlon):
        root = decathlon()
        (root / "labelsTr" / "case_2.nii.gz").unlink()
        (root / "imagesTr" / "case_3.nii.gz").unlink()
        assert kinds(read_dataset(root)) == ["missing-file", "missing-file"]
        change(root, training=[{"image": "imagesTr/case_1.nii.gz"}])
        assert kinds(read_dataset(root)) == ["no-label"]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"labels": {"1": "$__import__('os').system('x')"}}, "does not begin with"),
            ({"labels": {"1": " @device"}}, "does not begin with"),
            ({"modality": {"0": "%x"}}, "does not begin with"),
            ({"labels": {"1.5": "a"}}, "a whole number of its own"),
            ({"labels": {"1": "a", "01": "b"}}, "a whole number of its own"),
            ({"labels": {"1": "a", "2": " a"}}, "expected a name of its own for each"),
            ({"labels": {"0": "background"}}, "expected one above 0"),
            ({"labels": {"1": "a", "2": "ignore", "3": "Ignore"}}, "a whole number of its own"),
            ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "a whole number of its own"),
            (
                {"labels": {"background": 0, "a": 1, "b": 1}},
                "value 1 for the label 'b', expected a whole number of its own",
            ),
            ({"modality": {"1": "MRI"}}, "by number"),
            ({"labels": None}, "names and numbers"),
            ({"training": [{"image": "../x.nii.gz", "label": "y.nii.gz"}]}, "leaves the folder"),
        ],
    )
    def test_unusable_content_is_refused(self, decathlon, more, message):
        root = decathlon()
        change(root, **more)
        with pytest.raises(UserError, match=message):
            read_dataset(root)

    def test_names_that_some_file_systems_take_for_the_same(self, decathlon):
        root = decathlon()
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / "case_3.nii.gz").rename(root / folder / "CASE_2.nii.gz")
        text = (root / "dataset.json").read_text(encoding="utf-8").replace("case_3", "CASE_2")
        (root / "dataset.json").write_text(text, encoding="utf-8")
        (finding,) = read_dataset(root).findings
        assert (finding.kind, finding.where) == ("name-clash", "case_2")


class TestNnunet:
    def test_read(self, nnunet):
        found = read_dataset(nnunet())
        assert (found.form, found.channels, found.labels) == ("nnunet", ("T1", "FLAIR"), {0: "background", 1: "box"})
        assert [case.subject for case in found.cases] == ["box_000", "box_001", "box_002", "box_003", "box_100"]
        assert [Path(file).name for file in found.cases[1].case.files] == ["box_001_0000.nii.gz", "box_001_0001.nii.gz"]
        assert len(found.labeled) == 4
        assert not found.findings

    def test_broken_pairs(self, nnunet):
        root = nnunet()
        (root / "labelsTr" / "box_000.nii.gz").rename(root / "labelsTr" / "box_009.nii.gz")
        (root / "imagesTr" / "box_001_0001.nii.gz").unlink()
        found = read_dataset(root).findings
        assert [finding.kind for finding in found] == ["missing-file", "missing-file", "missing-modality"]
        assert found[0].where.endswith("box_009.nii.gz")
        assert "no FLAIR" in found[2].text

    def test_files_listed_one_by_one(self, nnunet):
        root = nnunet()
        files = [f"imagesTr/box_000_000{i}.nii.gz" for i in range(2)]
        change(root, dataset={"one": {"images": files, "label": "labelsTr/box_000.nii.gz"}, "two": {"images": files}})
        found = read_dataset(root)
        assert [case.label is None for case in found.cases] == [False, True]
        assert "no-label" in kinds(found)
        assert kinds(read_dataset(root / ".." / root.name)) == kinds(found)
        for wrong in ("a.nii.gz", {}, {"images": "a.nii.gz"}, {"images": files, "label": 3}):
            change(root, dataset={"one": wrong})
            with pytest.raises(UserError, match=r"dataset: one: found .*, expected a list of files under images"):
                read_dataset(root)

    @pytest.mark.parametrize(
        ("labels", "classes", "regions"),
        [
            (
                {"whole": [1, 2, 4], "core": [2, 4], "enhancing": 4},
                {1: "whole 1", 2: "core 2", 4: "enhancing"},
                {"whole": (1, 2, 4), "core": (2, 4)},
            ),
            (
                {"whole": [1, 2, 3], "core": [3], "ignore": 4},
                {1: "whole 1", 2: "whole 2", 3: "core"},
                {"whole": (1, 2, 3)},
            ),
        ],
    )
    def test_regions_are_kept_beside_their_classes(self, nnunet, labels, classes, regions):
        found = read_dataset(nnunet(labels={"background": 0, **labels}))
        assert found.labels == {0: "background", **classes}
        assert (found.regions, found.ignored) == (regions, labels.get("ignore"))

    def test_names_without_a_channel(self, nnunet):
        root = nnunet()
        (root / "imagesTr" / "box_000_0001.nii.gz").rename(root / "imagesTr" / "box_000_0002.nii.gz")
        with pytest.raises(UserError, match=r"imagesTr: found names without a channel, expected <case>_0000"):
            read_dataset(root)

    def test_the_pipeline_reads_the_folder_itself(self, nnunet):
        root = nnunet()
        cases = [labelled_cases(root, key) for key in ("training", "validation")]
        assert [[Path(case["label"]).name for case in part] for part in cases] == [
            ["box_000.nii.gz", "box_001.nii.gz", "box_002.nii.gz"],
            ["box_003.nii.gz"],
        ]
        assert cases[0][0]["image"] == [str(root / "imagesTr" / f"box_000_000{i}.nii.gz") for i in range(2)]


def test_files_in_a_folder_beside_that_of_the_list(decathlon, nnunet, tmp_path):
    scans, root, more = decathlon(), nnunet(), tmp_path / "lists"
    names = [f"../decathlon/{folder}/case_1.nii.gz" for folder in ("imagesTr", "labelsTr")]
    more.mkdir()
    (more / "list.csv").write_text(f"image,label\n{','.join(names)}\n{','.join(names).replace('e_1', 'e_2')}\n")
    dataset = {name: {"images": [names[0]] * 2, "label": names[1]} for name in ("one", "two")}
    change(root, dataset=dataset)
    for number, source in enumerate((more / "list.csv", root)):
        folder = listed(read_dataset(source), tmp_path / str(number))
        change(folder, labels={"1": "a"})
        (case,) = labelled_cases(folder, "training")
        image = case["image"] if number == 0 else case["image"][0]
        assert (image, case["label"]) == tuple(str(scans / f / "case_1.nii.gz") for f in ("imagesTr", "labelsTr"))


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"no dataset\.json"):
        read_dataset(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read_dataset(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="fix it"):
        read_dataset(tmp_path)


def test_names():
    assert check_name(" Größe 1 ", "x") == "Größe 1"
    for bad in ("", "$1", "\t@x", "%a", "a\nb", 3, None):
        with pytest.raises(UserError, match="rename it"):
            check_name(bad, "x")


class TestOtherLists:
    def test_list_with_folds_without_names(self, decathlon):
        root = decathlon(values=(0, 1))
        training = [entry | {"fold": number % 2} for number, entry in enumerate(change(root)["training"])]
        lists = {"training": training, "testing": [{"image": "imagesTr/case_1.nii.gz"}]}
        (root / "dataset.json").write_text(json.dumps(lists), encoding="utf-8")
        found = read_dataset(root)
        assert [case.list_key for case in found.cases] == ["training"] * 2 + ["validation"] * 2 + ["test"]
        assert (found.channels, found.labels) == (("image",), {})

    def test_channel_names_and_labels_of_nnunet_with_the_lists_of_the_decathlon(self, decathlon):
        root = decathlon()
        change(root, channel_names={"0": "T1"}, labels={"background": 0, "a": 1})
        found = read_dataset(root)
        assert (found.form, found.channels, found.labels) == ("decathlon", ("T1",), {0: "background", 1: "a"})

    def test_table(self, decathlon, tmp_path):
        root = decathlon()
        text = "image,label,subject,split\n"
        for number in (1, 2, 3):
            text += f"imagesTr/case_{number}.nii.gz,{root}/labelsTr/case_{number}.nii.gz,s{number // 2},\n"
        text += "imagesTr/case_1.nii.gz,,,test\n"
        (root / "list.csv").write_text(text, encoding="utf-8-sig")
        found = read_dataset(root / "list.csv")
        for name, separator in (("semicolons", ";"), ("tabs", "\t"), ("spaces", ", ")):  # as spreadsheets write them
            (root / f"{name}.csv").write_text(text.replace(",", separator).replace("\n", "\r\n"), newline="")
            assert read_dataset(root / f"{name}.csv").cases == found.cases
        for text_with_more in (text.replace("\n", ",,\n") + ",,,,,\n", "\n" + text.replace("\n", ",\n\n", 2)):
            (root / "more.csv").write_text(text_with_more, encoding="utf-8")
            assert read_dataset(root / "more.csv").cases == found.cases
        assert [(c.case.name, c.subject, c.list_key) for c in found.cases[:3]] == [
            *(("case_1", "s0", "training"), ("case_2", "s1", "training"), ("case_3", "s1", "training"))
        ]
        assert (found.cases[3].label, found.cases[3].list_key) == (None, "test")
        assert kinds(found) == ["name-clash"]
        (root / "list.csv").write_text(text.replace("2.nii.gz,s1,", "2.nii.gz,s1 ,validation"), encoding="utf-8")
        assert str(read_dataset(root / "list.csv").findings[0]).startswith("leakage: s1: is listed for training and")
        again = listed(found, tmp_path / "again")
        change(again, labels={"1": "a"})
        assert [(c.case.name, c.subject) for c in read_dataset(again).cases] == [
            *(("case_1", "s0"), ("case_2", "s1"), ("case_3", "s1"), ("case_1", "case_1"))
        ]
        listed_again = labelled_cases(again, "validation")
        assert [Path(case["image"]).name for case in listed_again] == ["case_2.nii.gz", "case_3.nii.gz"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("scan,label\na,b\n", "found the columns scan, label, expected image"),
            ("image,mask\na,b\n", "found the columns image, mask, expected image"),
            ("", "found the columns none"),
            ("image,image,label\na,b,c\n", "found the columns image, image, label, expected image"),
            ("image,label,label\na,b,c\n", "found the columns image, label, label, expected image"),
            ("image,label\n,b\n", "line 2: found no image"),
            ("image,label,split\na,b,train\n", "line 2: found split 'train', expected"),
            ("image,label\na,b,c\n", "line 2: found 3 cells, expected 2 as in the header"),
            ("image;label;;\na;b;;\na;b;;c\n", "line 3: found 4 cells, expected 2 as in the header"),
            ("image,label\na\n", "line 2: found 1 cells, expected 2 as in the header"),
            ("\nimage,label\n\na,b\n,\n,b\n", "line 6: found no image, expected at least one"),
            ("image,,label\na,,b\n", "found the columns image, , label, expected image"),
            ('image,label\n"a,b\n', "list.csv: found no table"),
            ("image,label\nü,b\n", "list.csv: found no table .*expected one in UTF-8"),
        ],
    )
    def test_tables_that_cannot_be_used(self, tmp_path, text, message):
        (tmp_path / "list.csv").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=message):
            read_dataset(tmp_path / "list.csv")
