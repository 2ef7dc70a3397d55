"""Whatever a case is called, what is written for it lies in the output folder, and where the report is looked for."""

from pathlib import Path

import pytest
from monai.data.folder_layout import FolderLayout

from monai_pdddpm.data import case_name, report_path
from monai_pdddpm.data.datalist import check_case_name
from monai_pdddpm.utils.errors import UserError

NAMES = [
    *("..nii", "....nii", ".nii", "..nii.gz", "a..nii", ".. .nii", "x\\..\\..\\y.nii.gz", "~root.nii", "-rf.nii"),
    *(
        "%2e%2e%2fa.nii",
        "$HOME.nii",
        "`id`.nii",
        "*.nii",
        "a;b|c.nii",
        "con.nii",
        "a:b.nii",
        "\u2025.nii",
        "\uff0e\uff0e.nii",
    ),
    *("n" * 200 + ".nii", "n" * 250 + ".nii", "a\n.nii", "a\0.nii", "\udcff.nii", "sub/../../a.nii", "/etc/passwd.nii"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_output_is_inside(tmp_path, name):
    file, output = str(tmp_path / "data" / name), tmp_path / "output"
    try:
        check_case_name(file)
    except UserError:
        return  # left out, nothing is written
    written = FolderLayout(str(output), postfix="mutual-information", extension=".nii.gz", parent=True).filename(file)
    assert Path(written).resolve().parent.parent == output
    assert Path(written).parent == report_path(output, case_name(file)).parent
    assert len(Path(written).name.encode()) < 256
    assert report_path(output, case_name(file)).resolve().parent.parent == output


@pytest.mark.parametrize("folder", [".", "..", "sub/..", "sub/", "1.2.3", "a.nii.gz"])
def test_folder_of_a_series_is_named_by_itself(tmp_path, folder, monkeypatch):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "data")
    assert report_path(tmp_path / "output", case_name(folder)).resolve().parent.parent == tmp_path / "output"
