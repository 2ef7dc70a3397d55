import os

import pytest

from monai_pdddpm.data.text_header import check_text_header, spare_bytes
from monai_pdddpm.utils.errors import UserError

NRRD = b"NRRD0004\ntype: float\ndimension: 3\nsizes: 5 4 3\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
META = b"ObjectType = Image\nNDims = 3\nOffset = 0 0 0\nDimSize = 5 4 3\n"


@pytest.fixture
def check(tmp_path):
    def run(content, name="scan.nrrd"):
        (tmp_path / name).write_bytes(content)
        check_text_header(tmp_path / name)

    return run


@pytest.mark.parametrize(
    "content",
    [
        NRRD + b"\n" + b"x" * 9999,  # voxels
        META + b"ElementDataFile = LOCAL\nnan" + b"x" * 9999,
        META + b"ElementDataFile = scan.raw\n",
        NRRD + b"data file: scan.raw\n\n",
        b"",
    ],
)
def test_valid_headers_pass(check, content):
    check(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NRRD + b"space: " + b"x" * 1000 + b"\n\n", "found a line of 1007 bytes"),
        (META.replace(b"NDims = 3", b"NDims = 99"), "found '99' axes, expected a number from 1 to 8"),
        (META.replace(b"NDims = 3", b"NDims = -1"), "found '-1' axes"),
        (NRRD.replace(b"(1,0,0)", b"(nan,0,0)"), "found NaN or infinity"),
        (META.replace(b"Offset = 0", b"Offset = inf"), "found NaN or infinity"),
        (META + b"ElementDataFile = /etc/passwd\n", "found voxels in /etc/passwd"),
        (NRRD + b"data file: ../scan.raw\n\n", r"found voxels in \.\./scan\.raw"),
        (META + b"ElementDataFile = pipe\n", "found no regular file pipe"),
        (NRRD + b'space units: "um" "um" "mm"\n\n', "found um as its unit of length"),
        (META + b"DistanceUnits = cm\nElementDataFile = LOCAL\n", "found cm as its unit of length"),
        (META + b"ElementToIntensityFunctionSlope = 2\n", "found the slope 2 for its values"),
        (META + b"ElementToIntensityFunctionOffset = 0.5\n", "found the offset 0.5 for its values"),
    ],
)
def test_headers_that_itk_cannot_take_are_refused(check, tmp_path, content, message):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=message):
        check(content)


def test_what_a_header_leaves_open_is_noted(tmp_path):
    size, sides = (
        "it states no voxel size: read as 1 mm",
        "it states no anatomical space, so left and right are a guess",
    )
    for content, notes in (
        (NRRD + b"space: left-posterior-superior\n\n", []),
        (NRRD + b'space: RAS\nspace units: "mm" "mm" "mm"\n\n', []),
        (NRRD + b"space: scanner-xyz\n\n", [sides]),
        (NRRD.replace(b"space directions", b"comment"), [size, sides]),
        (META, [size]),
        (META + b"ElementSpacing = 1 1 2\nElementToIntensityFunctionSlope = 1.0\n", []),
    ):
        (tmp_path / "scan").write_bytes(content)
        assert check_text_header(tmp_path / "scan") == notes


def test_bytes_behind_raw_voxels_are_counted(tmp_path):
    for content, spare in (
        (NRRD + b"encoding: raw\n\n" + bytes(70), 10),
        (NRRD + b"encoding: gzip\n\n" + bytes(70), 0),
        (META + b"CompressedData = False\nElementDataFile = LOCAL\n" + bytes(63), 3),
        (META + b"CompressedData = False\nElementDataFile = scan.raw\n", 0),
    ):
        (tmp_path / "scan").write_bytes(content)
        assert spare_bytes(tmp_path / "scan", 60) == spare
