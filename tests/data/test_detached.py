"""Where voxels lie is read from a text that may say anything; what cannot be right is refused before ITK sees it."""

import os

import itk
import numpy as np
import pytest

from monai_pdddpm.data.detached import find_data
from monai_pdddpm.utils.errors import UserError

VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
NRRD = b"NRRD0004\n# a remark: it\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n"
META = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 5 4 3\nElementType = MET_SHORT\n"


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_what_itk_writes(tmp_path, name, compress):
    itk.imwrite(itk.image_from_array(VOXELS), str(tmp_path / name), compression=compress)
    data = find_data(tmp_path / name)
    assert (data.packed, data.binary, data.placed) == (compress, True, True)
    assert (data.file == tmp_path / name) == (name in ("a.nrrd", "a.mha"))
    if compress:
        assert data.stored < VOXELS.nbytes
    else:
        assert data.stored == VOXELS.nbytes
        assert data.file.read_bytes()[-data.stored :] == VOXELS.tobytes()


def test_lines_end_as_on_windows(tmp_path):
    content = NRRD.replace(b"\n", b"\r\n") + b"\r\n" + VOXELS.tobytes()
    data = find_data(written(tmp_path / "a.nrrd", content))
    assert (data.stored, data.placed) == (VOXELS.nbytes, False)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "x/../../a.raw", "..\\a.raw", "C:\\a.raw"])
def test_data_outside(tmp_path, name):
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "in").mkdir()
    for file, head in (("a.nhdr", NRRD + b"data file: "), ("a.mhd", META + b"ElementDataFile = ")):
        with pytest.raises(UserError, match="outside of its folder"):
            find_data(written(tmp_path / "in" / file, head + name.encode() + b"\n"))


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir])
def test_data_in_no_plain_file(tmp_path, make):
    make(tmp_path / "a.raw")
    with pytest.raises(UserError, match=r"voxels are missing, expected them in the file .*a\.raw"):
        find_data(written(tmp_path / "a.mhd", META + b"ElementDataFile = a.raw\n"))


@pytest.mark.parametrize("name", ["LIST", "a%03d.raw 1 9 1"])
def test_data_in_several_files(tmp_path, name):
    with pytest.raises(UserError, match="several files"):
        find_data(written(tmp_path / "a.mhd", META + b"ElementDataFile = " + name.encode()))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"NDims = 3", b"NDims = 99", "99 axes"),  # ITK 5.4 writes over its own memory here
        (b"NDims = 3", b"NDims = 0", "0 axes"),
        (b"5 4 3", b"5 4", "3 whole numbers"),
        (b"5 4 3", b"5 4 0", "above 0"),
        (b"5 4 3", b"5 4 " + b"9" * 30, "above 0"),
        (b"5 4 3", b"a b c", "invalid literal"),
        (b"Image", b"I" * 5000, "5014 letters"),
        (b"NDims", b"TransformMatrix = 1 2\nNDims", "2 numbers in transformmatrix, 9"),
        (b"NDims", b"ElementSpacing = 1 1 -1\nNDims", "spacing is 1 1 -1"),
    ],
)
def test_header_that_cannot_be_right(tmp_path, old, new, told):
    head = META.replace(old, new) + b"ElementDataFile = LOCAL\n"
    with pytest.raises(ValueError, match=told):
        find_data(written(tmp_path / "a.mha", head + VOXELS.tobytes()))
