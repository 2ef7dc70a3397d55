"""Lists of cases, and the errors for folders and lists that cannot be used."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from monai_pdddpm.data.case import case_name
from monai_pdddpm.data.datalist import inference_cases, labelled_cases, training_cases, unused_files
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.utils.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def decathlon(root: Path, **lists) -> None:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({"name": "toy", **lists}))


def pairs(*names: str) -> list[dict[str, str]]:
    return [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]


def touch_pairs(root: Path, *names: str) -> None:
    for name in names:
        touch(root, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz")


def names(cases: list[dict[str, str]]) -> list[str]:
    return [case_name(case["image"]) for case in cases]


class TestDicom:
    @pytest.fixture
    def series(self, write_series):
        return lambda folder, **options: write_series(
            folder, np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4), **options
        )

    @pytest.mark.parametrize("names", ["IM{}", "{}.dcm"])
    def test_one_series(self, tmp_path, series, names, monkeypatch):
        series(tmp_path / "head.1", names=names)
        expected = [{"image": str(tmp_path / "head.1")}]
        assert inference_cases(tmp_path / "head.1") == expected
        monkeypatch.chdir(tmp_path / "head.1")
        assert inference_cases(".") == expected

    def test_one_series_in_each_subfolder(self, tmp_path, series):
        for name in ("b", "a.1"):
            series(tmp_path / name)
        touch(tmp_path, "notes/readme.txt", ".hidden/IM1", "DICOMDIR")
        assert names(inference_cases(tmp_path)) == ["a.1", "b"]

    def test_series_named_in_a_dataset_json(self, tmp_path, series):
        series(tmp_path / "images" / "ct.1")
        touch(tmp_path, "labels/ct.1.nii.gz")
        entry = {"image": "images/ct.1", "label": "labels/ct.1.nii.gz"}
        decathlon(tmp_path, test=[entry], training=[entry, entry], validation=[entry])
        expected = {key: str(tmp_path / path) for key, path in entry.items()}
        assert inference_cases(tmp_path) == [expected]
        assert labelled_cases(tmp_path, "training") == [expected] * 2

    def test_several_series_in_one_folder(self, tmp_path, series):
        for number in range(4):
            series(tmp_path, uid=f"1.2.{number}", names=f"{number}-{{}}")
        with pytest.raises(UserError, match=r"found 4 DICOM series \(1\.2\.0, 1\.2\.1, 1\.2\.2, \.\.\.\).*of its own"):
            inference_cases(tmp_path)

    def test_scans_come_before_slices(self, tmp_path, series):
        series(tmp_path)
        touch(tmp_path, "a.nii")
        cases = inference_cases(tmp_path)
        assert names(cases) == ["a"]
        assert unused_files(tmp_path, cases) == ["IM0000", "IM0037", "IM0074"]

    def test_series_beside_a_file(self, tmp_path, series):
        series(tmp_path / "b")
        touch(tmp_path, "a.nii")
        assert names(inference_cases(tmp_path)) == ["a", "b"]

    def test_series_at_any_depth(self, tmp_path, series):
        series(tmp_path / "a", uid="1.2.1")
        series(tmp_path / "b" / "study" / "series", uid="1.2.2")
        series(tmp_path / "c" / "one", uid="1.2.3")
        series(tmp_path / "c" / "two", uid="1.2.4")
        series(tmp_path / "d", uid="1.2.5")
        series(tmp_path / "d" / "older", uid="1.2.6")
        assert names(inference_cases(tmp_path)) == ["a", "b", "one", "two", "d", "older"]

    def test_segmentations_are_no_scans(self, tmp_path, series):
        series(tmp_path / "a")
        series(tmp_path / "output" / "a", uid="1.2.9", change=lambda index, ds: setattr(ds, "Modality", "SEG"))
        cases = inference_cases(tmp_path)
        assert names(cases) == ["a"]
        assert unused_files(tmp_path, cases) == [f"output/a/{name}" for name in ("IM0000", "IM0037", "IM0074")]

    def test_subfolder_that_continues_a_series(self, tmp_path, series):
        for file in series(tmp_path / "a")[1:]:
            (tmp_path / "a" / "more").mkdir(exist_ok=True)
            file.rename(tmp_path / "a" / "more" / file.name)
        series(tmp_path / "b" / "one", uid="1.2.9", fold=(2,))
        series(tmp_path / "b" / "two", uid="1.2.9", fold=(0, 1))
        assert names(inference_cases(tmp_path)) == ["a", "b"]
        assert inference_cases(tmp_path / "a") == [{"image": str(tmp_path / "a")}]

    @pytest.fixture
    def deny(self, monkeypatch):
        """Return a function that takes the permission to list a folder, also from root."""

        def refused(real, folder, path="."):
            if os.path.abspath(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        def of(folder):
            for name in ("scandir", "listdir"):
                monkeypatch.setattr(os, name, partial(refused, getattr(os, name), folder))

        return of

    def test_unreadable_folder_is_a_case_that_fails_alone(self, tmp_path, series, deny):
        series(tmp_path / "a", uid="1.2.1")
        for name, uid in (("one", "1.2.2"), ("two", "1.2.3"), ("three", "1.2.4")):
            series(tmp_path / "b" / name, uid=uid)
        deny(tmp_path / "b" / "two")
        cases = inference_cases(tmp_path)
        assert names(cases) == ["a", "one", "three", "two"]
        assert unused_files(tmp_path, cases) == []
        assert unused_files(tmp_path, cases[:3]) == ["b/two"]
        for case in (0, 1, 2):
            assert LoadScan()(cases[case]["image"]).shape == (1, 5, 4, 3)
        with pytest.raises(UserError, match=r"b/two: cannot be listed \(Permission denied\)"):
            LoadScan()(cases[3]["image"])

    @pytest.mark.parametrize("inner", ["one", "."])
    def test_a_series_is_not_read_without_a_folder_that_may_hold_its_slices(self, tmp_path, series, deny, inner):
        first, *_ = series(tmp_path / "a" / inner)
        (tmp_path / "a" / "more").mkdir()
        first.rename(tmp_path / "a" / "more" / first.name)
        deny(tmp_path / "a" / "more")
        assert names(inference_cases(tmp_path)) == ["a"]
        with pytest.raises(UserError, match="a/more: cannot be listed"):
            LoadScan()(tmp_path / "a")

    def test_damaged_slice_fails_its_case_alone(self, tmp_path, series):
        first, *_ = sorted(series(tmp_path / "a"))
        first.write_bytes(first.read_bytes()[:152])
        series(tmp_path / "b")
        assert names(inference_cases(tmp_path)) == ["a", "b"]
        with pytest.raises(UserError, match=f"a/{first.name}: a DICOM file that cannot be read"):
            LoadScan()(tmp_path / "a")
        assert LoadScan()(tmp_path / "b").shape == (1, 5, 4, 3)


class TestFolders:
    def test_one_file(self, tmp_path):
        touch(tmp_path, "a.nii.gz")
        assert inference_cases(tmp_path / "a.nii.gz") == [{"image": str(tmp_path / "a.nii.gz")}]

    def test_folder_takes_scans_alone_in_order(self, tmp_path):
        touch(tmp_path, "b.nii", "a.nii.gz", "c.nrrd", "d.nhdr", "e.mha", "f.mhd", "G.NII")
        touch(tmp_path, "a.json", "._a.nii.gz", ".b.nii", "notes.txt", "f.raw", "sub/z.nii.gz")
        cases = inference_cases(tmp_path)
        assert names(cases) == ["G", "a", "b", "c", "d", "e", "f"]
        assert unused_files(tmp_path, cases) == ["a.json", "notes.txt", "sub/z.nii.gz"]
        assert unused_files(tmp_path / "a.nii.gz", inference_cases(tmp_path / "a.nii.gz")) == []

    def test_folder_named_like_a_scan_is_none(self, tmp_path):
        touch(tmp_path, "a.nii/b.txt", "c.nii")
        assert names(inference_cases(tmp_path)) == ["c"]

    def test_a_name_that_begins_with_a_tilde_is_a_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        touch(tmp_path, "~root/a.nii")
        assert inference_cases("~root") == [{"image": "~root/a.nii"}]

    def test_images_ts_comes_before_images_tr(self, tmp_path):
        touch(tmp_path, "imagesTs/t.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
        assert inference_cases(tmp_path) == [{"image": str(tmp_path / "imagesTs/t.nii.gz")}]
        both = {"image": str(tmp_path / "imagesTr/a.nii.gz"), "label": str(tmp_path / "labelsTr/a.nii.gz")}
        assert inference_cases(tmp_path, "training") == [both]

    def test_images_tr_alone(self, tmp_path):
        touch(tmp_path, "imagesTr/a.nii.gz", "imagesTs/readme.txt")
        assert inference_cases(tmp_path) == [{"image": str(tmp_path / "imagesTr/a.nii.gz")}]

    @pytest.mark.parametrize("name", ["gone", "gone.nii.gz"])
    def test_missing(self, tmp_path, name):
        with pytest.raises(UserError, match=f"{name}: does not exist"):
            inference_cases(tmp_path / name)

    def test_empty_folder(self, tmp_path):
        touch(tmp_path, "series/1.dcm")
        with pytest.raises(UserError, match=r"no scan found.*DICOM series in folders of their own"):
            inference_cases(tmp_path)

    def test_file_that_is_no_scan(self, tmp_path):
        touch(tmp_path, "a.txt")
        with pytest.raises(UserError, match=r"a\.txt: not a scan"):
            inference_cases(tmp_path / "a.txt")

    def test_broken_link_alone_is_an_error_and_among_others_a_case(self, tmp_path):
        (tmp_path / "a.nii").symlink_to(tmp_path / "gone.nii")
        with pytest.raises(UserError, match=r"a\.nii: 1 file missing"):
            inference_cases(tmp_path)
        touch(tmp_path, "b.nii")
        assert names(inference_cases(tmp_path)) == ["a", "b"]

    @pytest.mark.parametrize(
        ("first", "second"), [("a.nii", "a.nii.gz"), ("A.nii.gz", "a.nii"), ("e\u0301.nii", "\u00e9.nii.gz")]
    )
    def test_two_files_of_one_name(self, tmp_path, first, second):
        touch(tmp_path, first, second)
        with pytest.raises(UserError, match=rf"{first} and .*{second}: both have the name"):
            inference_cases(tmp_path)


OUTSIDE = (
    *("/etc/a.nii", "../a.nii", "imagesTr/../../a.nii", "C:\\a.nii", "..\\a.nii"),
    *("~/a.nii", "./~root/a.nii"),
)


class TestDatasetJson:
    def test_plain_strings(self, tmp_path):
        touch(tmp_path, "imagesTs/b.nii.gz", "imagesTs/a.nii.gz")
        decathlon(tmp_path, test=["./imagesTs/b.nii.gz", "imagesTs/a.nii.gz"])
        assert inference_cases(tmp_path) == [
            {"image": str(tmp_path / "imagesTs/b.nii.gz")},
            {"image": str(tmp_path / "imagesTs/a.nii.gz")},
        ]

    def test_the_file_stands_for_its_folder(self, tmp_path):
        touch_pairs(tmp_path, "a", "b")
        touch(tmp_path, "notes.txt")
        decathlon(tmp_path, test=pairs("a"), training=pairs("a", "b"))
        file, cases = tmp_path / "dataset.json", inference_cases(tmp_path)
        assert inference_cases(file) == cases
        assert labelled_cases(file, "training") == labelled_cases(tmp_path, "training")
        assert "notes.txt" in unused_files(file, cases)
        assert unused_files(file, cases) == unused_files(tmp_path, cases)

    @pytest.mark.parametrize(
        ("lists", "section", "expected", "line"),
        [
            ({"test": pairs("t"), "validation": pairs("v"), "training": pairs("a")}, "test", "t", ""),
            ({"test": [], "validation": pairs("v"), "training": pairs("a")}, "test", "v", "the 1 of validation"),
            ({"training": pairs("a")}, "test", "a", "the 1 of training"),
            ({"test": pairs("t"), "training": pairs("a")}, "validation", "a", "the 1 of training"),
            ({"test": pairs("t"), "training": pairs("a")}, "training", "a", ""),
        ],
    )
    def test_section(self, tmp_path, capsys, lists, section, expected, line):
        touch_pairs(tmp_path, "t", "v", "a")
        decathlon(tmp_path, **lists)
        (case,) = inference_cases(tmp_path, section)
        assert case == {
            "image": str(tmp_path / f"imagesTr/{expected}.nii.gz"),
            "label": str(tmp_path / f"labelsTr/{expected}.nii.gz"),
        }
        printed = capsys.readouterr().out
        lines = [text for text in printed.splitlines() if "not used" not in text]
        assert len(lines) == bool(line)
        assert line in printed

    def test_unknown_section(self, tmp_path):
        with pytest.raises(UserError, match="data_list_key: found 'tests'"):
            inference_cases(tmp_path, "tests")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "not valid JSON"),
            (b"\xff\xfe\x00", "not valid JSON"),
            (b"[]", "found a list"),
            (b"{}", "lists no case"),
            (b'{"Training": []}', "found the key 'Training', expected 'training'"),
            (b'{"test": "a.nii"}', "'test' is a str"),
            (b'{"test": [], "test": []}', "not valid JSON .*'test' is there twice"),
            (b"[" * 100_000, "not valid JSON"),
            (b'{"test": ["a\\u0000.nii"]}', r"image of test\[0\] is 'a\\x00"),
            (b'{"test": [3]}', r"image of test\[0\] is 3"),
            (b'{"test": [{"label": "a.nii"}]}', r"found the keys \['label'\] in test\[0\], expected 'image'"),
            (b'{"test": [{"image": ["a.nii", 3]}]}', r"image of test\[0\] is 3"),
            (b'{"test": [{"image": [null, ""]}]}', r"image of test\[0\] lists no file"),
            (b'{"test": [{"image": []}]}', r"image of test\[0\] lists no file"),
            (b'{"test": [{"image": "a.nii", "label": ["b.nii"]}]}', r"label of test\[0\]"),
        ],
    )
    def test_unreadable(self, tmp_path, content, message):
        (tmp_path / "dataset.json").write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            inference_cases(tmp_path)
        assert str(tmp_path / "dataset.json") in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("path", OUTSIDE)
    @pytest.mark.parametrize("key", ["image", "label"])
    def test_paths_that_leave_the_folder(self, tmp_path, path, key):
        touch(tmp_path, "a.nii", "set/imagesTr/a.nii")
        decathlon(tmp_path / "set", test=[{"image": "imagesTr/a.nii", key: path}])
        with pytest.raises(UserError, match=rf"{key} of test\[0\] leaves the folder"):
            inference_cases(tmp_path / "set")

    @pytest.mark.parametrize("path", ["/etc/a.nii", "../a.nii", "C:\\a.nii"])
    def test_list_that_leaves_the_folder(self, tmp_path, path):
        decathlon(tmp_path, test=[{"image": ["a.nii", None, path]}])
        with pytest.raises(UserError, match=r"image of test\[0\] leaves the folder"):
            inference_cases(tmp_path)

    def test_one_file_for_each_channel(self, tmp_path):
        touch(tmp_path, "x/a_t1.nii.gz", "x/b_t1.nii.gz")
        listed = [
            {"image": ["x/a_t1.nii.gz", None]},
            ["", "x/b_t1.nii.gz"],
            {"image": ["x/c_t1.nii.gz", "x/c_t2.nii.gz"]},
        ]
        decathlon(tmp_path, test=listed)
        cases = inference_cases(tmp_path)
        assert [case["image"] for case in cases] == [
            [str(tmp_path / "x/a_t1.nii.gz"), None],
            [None, str(tmp_path / "x/b_t1.nii.gz")],
            [str(tmp_path / "x/c_t1.nii.gz"), str(tmp_path / "x/c_t2.nii.gz")],
        ]
        assert names(cases) == ["a_t1", "b_t1", "c_t1"]

    def test_two_lists_of_one_name(self, tmp_path):
        touch(tmp_path, "x/t1.nii.gz", "y/t1.nii.gz")
        decathlon(tmp_path, test=[["x/t1.nii.gz", None], ["y/t1.nii.gz"]])
        with pytest.raises(UserError, match=r"x/t1\.nii\.gz and .*y/t1\.nii\.gz.*'t1'"):
            inference_cases(tmp_path)

    def test_all_files_missing(self, tmp_path):
        decathlon(tmp_path, test=pairs("a", "b", "c", "d"))
        with pytest.raises(UserError, match="4 files missing") as caught:
            inference_cases(tmp_path)
        assert str(caught.value).count(".nii.gz") == 3

    def test_some_files_missing_do_not_stop_the_others(self, tmp_path):
        touch_pairs(tmp_path, "c")
        decathlon(tmp_path, test=pairs("a", "b", "c"))
        assert names(inference_cases(tmp_path)) == ["a", "b", "c"]


class TestLabelled:
    def test_lists_are_taken_as_they_are(self, tmp_path, capsys):
        touch_pairs(tmp_path, "a", "b", "c")
        decathlon(tmp_path, training=pairs("b", "a"), validation=pairs("c"))
        assert names(labelled_cases(tmp_path, "training")) == ["b", "a"]
        assert labelled_cases(tmp_path, "validation") == [
            {"image": str(tmp_path / "imagesTr/c.nii.gz"), "label": str(tmp_path / "labelsTr/c.nii.gz")}
        ]
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(("count", "held"), [(2, 1), (4, 1), (9, 1), (10, 2), (11, 2)])
    def test_last_fifth_is_held_out(self, tmp_path, capsys, count, held):
        all_names = [f"c{number:02}" for number in range(count)]
        touch_pairs(tmp_path, *all_names)
        decathlon(tmp_path, training=pairs(*all_names))
        assert names(labelled_cases(tmp_path, "training")) == all_names[:-held]
        assert capsys.readouterr().out.count("\n") == 1
        assert names(labelled_cases(tmp_path, "validation")) == all_names[-held:]
        assert f"held out {held} of {count}" in capsys.readouterr().out

    def test_a_subject_is_held_out_with_all_its_scans(self, tmp_path):
        visits = [f"sub{subject}_{visit}" for visit in (1, 2, 3) for subject in (1, 2, 3, 4)]
        touch_pairs(tmp_path, *visits)
        decathlon(tmp_path, training=pairs(*visits))
        assert names(labelled_cases(tmp_path, "validation", 3)) == ["sub4_1", "sub4_2", "sub4_3"]
        assert names(training_cases(tmp_path, scans_per_subject=3)) == [name for name in visits if "sub4" not in name]
        decathlon(tmp_path, training=[entry | {"subject": 7} for entry in pairs(*visits[:8])] + pairs(*visits[8:]))
        assert names(labelled_cases(tmp_path, "training")) == visits[:-1]  # subject 7, and four of one scan
        decathlon(tmp_path, training=[pairs("sub4_1")[0] | {"subject": ["x"]}])
        with pytest.raises(UserError, match=r"subject of training\[0\] is \['x'\], expected a name"):
            labelled_cases(tmp_path, "training")
        decathlon(tmp_path, training=pairs("sub4_1", "sub4_2", "sub4_3"))
        with pytest.raises(UserError, match="found labeled cases of 1 subject and no validation list"):
            labelled_cases(tmp_path, "validation", 3)

    def test_a_subject_in_both_lists_is_refused(self, tmp_path):
        touch_pairs(tmp_path, "a", "b")
        lists = {"training": [pairs("a")[0] | {"subject": 7}], "validation": [pairs("b")[0] | {"subject": "7"}]}
        decathlon(tmp_path, **lists)
        for key in lists:
            with pytest.raises(UserError, match="found the subject '7' in training and validation"):
                labelled_cases(tmp_path, key)

    def test_folders_without_a_list(self, tmp_path):
        touch_pairs(tmp_path, "b", "a")
        assert names(labelled_cases(tmp_path, "training")) == ["a"]
        assert names(labelled_cases(tmp_path, "validation")) == ["b"]

    def test_one_case_cannot_be_split(self, tmp_path):
        touch_pairs(tmp_path, "a")
        decathlon(tmp_path, training=pairs("a"))
        with pytest.raises(UserError, match="at least two"):
            labelled_cases(tmp_path, "training")

    def test_all_missing_files_are_counted(self, tmp_path):
        touch_pairs(tmp_path, "c")
        decathlon(tmp_path, training=pairs("a", "b", "c"), validation=pairs("c"))
        with pytest.raises(UserError, match=r"a\.nii\.gz.*a\.nii\.gz.*b\.nii\.gz, \.\.\.: 4 files missing"):
            labelled_cases(tmp_path, "training")

    def test_file_missing_in_a_list_is_left_for_the_loader(self, tmp_path):
        touch(tmp_path, "a_t1.nii", "a_seg.nii")
        pair = {"image": ["a_t1.nii", "gone.nii"], "label": "a_seg.nii"}
        decathlon(tmp_path, training=[pair], validation=[pair])
        (case,) = labelled_cases(tmp_path, "training")
        assert case["image"] == [str(tmp_path / "a_t1.nii"), str(tmp_path / "gone.nii")]
        decathlon(tmp_path, training=[{**pair, "image": ["gone.nii", "lost.nii"]}], validation=[pair])
        with pytest.raises(UserError, match=r"gone\.nii: 1 file missing"):
            labelled_cases(tmp_path, "training")

    def test_label_is_required(self, tmp_path):
        touch_pairs(tmp_path, "a", "b")
        decathlon(tmp_path, training=["imagesTr/a.nii.gz"], validation=pairs("b"))
        with pytest.raises(UserError, match=r"a\.nii\.gz: 1 file without a label"):
            labelled_cases(tmp_path, "training")

    def test_missing_label_file_beside_images(self, tmp_path):
        touch_pairs(tmp_path, "b", "c")
        touch(tmp_path, "imagesTr/a.nii.gz")
        with pytest.raises(UserError, match=r"labelsTr/a\.nii\.gz: 1 file missing"):
            labelled_cases(tmp_path, "training")

    @pytest.mark.parametrize("section", ["test", "train"])
    def test_other_sections(self, tmp_path, section):
        with pytest.raises(UserError, match=f"data_list_key: found '{section}'"):
            labelled_cases(tmp_path, section)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match="no training case"):
            labelled_cases(tmp_path, "training")
        with pytest.raises(UserError, match="not a folder"):
            labelled_cases(tmp_path / "gone", "training")


class TestRoot:
    """A list may lie elsewhere than its scans."""

    def write(self, folder, root):
        folder.mkdir()
        content = {"root": root, "training": [{"image": "a.nii", "label": "b.nii"}] * 2}
        (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    def test_paths_are_relative_to_it(self, tmp_path):
        scans = tmp_path / "scans"
        scans.mkdir()
        for name in ("a.nii", "b.nii"):
            (scans / name).touch()
        listed = self.write(tmp_path / "list", str(scans))
        assert labelled_cases(listed, "training") == [{"image": str(scans / "a.nii"), "label": str(scans / "b.nii")}]

    @pytest.mark.parametrize("root", ["/nowhere/at/all", 3])
    def test_a_root_that_is_not_there(self, tmp_path, root):
        with pytest.raises(UserError, match=r"root is .* expected the folder that the scans lie in"):
            labelled_cases(self.write(tmp_path / "list", root), "training")


class TestNnunet:
    """Channels in files of their own, named as nnU-Net names them."""

    def test_channels_are_one_case_named_without_them(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz")
        cases = inference_cases(tmp_path, channels=2)
        assert names(cases) == ["a", "b"]
        a, b = (str(tmp_path / name) for name in ("a", "b"))
        images = [[f"{a}_0000.nii.gz", f"{a}_0001.nii.gz"], [None, f"{b}_0001.nii.gz"]]
        assert [case["image"] for case in cases] == images
        assert unused_files(tmp_path, cases) == []

    def test_a_stray_file_is_a_case_of_its_own(self, tmp_path):
        touch(tmp_path, *(f"{case}_000{channel}.nii.gz" for case in "ab" for channel in range(2)), "stray.nii.gz")
        cases = inference_cases(tmp_path, channels=2)
        assert names(cases) == ["a", "b", "stray"]
        assert [len(case["image"]) for case in cases[:2]] == [2, 2]
        assert cases[2]["image"] == str(tmp_path / "stray.nii.gz")

    def test_one_channel(self, tmp_path):
        touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
        assert names(inference_cases(tmp_path, channels=1)) == ["a", "b"]

    @pytest.mark.parametrize(
        ("files", "channels"),
        [
            (["scan_0000.nii", "scan_0001.nii"], 1),  # numbers of scans
            (["scan_0000.nii", "scan_0007.nii"], 2),
            (["a_0000.nii", "b.nii"], 1),
            (["a_0001.nii", "b.nii"], 2),  # no case has both channels: the number may count scans
            (["a_0000.nii", "a_0001.nii", "a_0002.nii"], 2),
            (["a_0000.nii", "b_0000.nii"], None),
        ],
    )
    def test_numbers_that_are_no_channels_stay_in_the_names(self, tmp_path, files, channels):
        touch(tmp_path, *files)
        assert names(inference_cases(tmp_path, channels=channels)) == [file.removesuffix(".nii") for file in files]

    def test_the_same_channel_in_two_formats(self, tmp_path):
        touch(tmp_path, "a_0000.nii", "a_0000.nrrd")
        with pytest.raises(UserError, match="both have the name 'a'"):
            inference_cases(tmp_path, channels=1)

    def test_folder_of_the_data_set(self, tmp_path):
        touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/t_0000.nii.gz")
        content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        cases = inference_cases(tmp_path, channels=1)
        assert names(cases) == ["t"]
        assert unused_files(tmp_path, cases) == ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"]
        (case,) = inference_cases(tmp_path, "training", channels=1)
        assert (case_name(case["image"]), Path(case["label"]).name) == ("a", "a.nii.gz")

    def test_list_of_version_1_names_files_without_channels(self, tmp_path):
        touch(tmp_path, *(f"imagesTr/a_000{i}.nii.gz" for i in range(2)))
        touch(tmp_path, "labelsTr/a.nii.gz", "imagesTs/t_0001.nii.gz")
        lists = {"modality": {"0": "T1", "1": "T2"}, "training": pairs("a") * 2, "test": ["./imagesTs/t.nii.gz"]}
        decathlon(tmp_path, **lists)
        case = labelled_cases(tmp_path, "training")[0]
        assert [Path(file).name for file in case["image"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
        assert case_name(case["image"]) == "a"
        (case,) = inference_cases(tmp_path)
        assert case["image"] == [None, str(tmp_path / "imagesTs/t_0001.nii.gz")]


class TestAuto3DSeg:
    def test_fold_0_is_held_out(self, tmp_path):
        touch_pairs(tmp_path, "a", "b", "c", "t")
        training = [entry | {"fold": fold} for entry, fold in zip(pairs("a", "b", "c"), (1, 0, 2), strict=True)]
        decathlon(tmp_path, training=training, testing=[{"image": "imagesTr/t.nii.gz"}])
        assert names(labelled_cases(tmp_path, "training")) == ["a", "c"]
        assert names(labelled_cases(tmp_path, "validation")) == ["b"]
        assert names(inference_cases(tmp_path)) == ["t"]

    @pytest.mark.parametrize("fold", ["0", False, 1.0, None])
    def test_folds_that_are_no_numbers(self, tmp_path, fold):
        touch_pairs(tmp_path, "a", "b")
        first, second = pairs("a", "b")
        decathlon(tmp_path, training=[first | {"fold": 0}, second | {"fold": fold}])
        with pytest.raises(UserError, match=rf"json: fold of training\[1\] is {fold!r}, expected a whole number"):
            labelled_cases(tmp_path, "training")

    def test_a_validation_list_comes_before_folds(self, tmp_path):
        touch_pairs(tmp_path, "a", "v")
        decathlon(tmp_path, training=[pairs("a")[0] | {"fold": 0}], validation=pairs("v"))
        assert names(labelled_cases(tmp_path, "training")) == ["a"]
        assert names(labelled_cases(tmp_path, "validation")) == ["v"]


def test_lists_and_keys_that_nothing_reads_are_named(tmp_path):
    touch_pairs(tmp_path, "a")
    entry = pairs("a")[0] | {"mask": "m.nii"}
    decathlon(tmp_path, test=[entry], val=[entry], regions_class_order=[1, 2], tensorImageSize="3D")
    cases = inference_cases(tmp_path)
    expected = ["the list 'val' of dataset.json", "the key 'mask' of 1 entries of dataset.json"]
    assert unused_files(tmp_path, cases) == expected
