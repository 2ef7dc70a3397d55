"""A few inputs of each target of the fuzzer, always the same, and what it has found."""

import gzip
import itertools
import logging

import fuzz
import pytest
from good_scan import nifti

COUNT = 120
META = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nCompressedDataSize = %b\n"
    b"DimSize = 5 4 3\nElementType = MET_FLOAT\nElementDataFile = LOCAL\nx"
)
NRRD = b"NRRD0004\ntype: float\ndimension: 3\nspace: %b\nsizes: 5 4 3\nencoding: raw\n\n" % (1100 * b"x") + bytes(240)
# what was once a finding -> what is told of it now
FOUND = [
    ("nifti", nifti(fuzz.SMALL[:1, :1, :1], endian=">", edits={("dim", 0): -129}), "found shape (), expected 3"),
    ("nifti_gz", gzip.compress(nifti(fuzz.SMALL, endian=">", edits={("dim", 0): -129})), "more than its header tells"),
    *(("mha", META % size, "compressed bytes") for size in (b"18446744073709551615", b"-1", b"1e999")),
    ("nrrd", NRRD, "a field of its header has 1107 letters, at most 800"),  # it had ended the process
    ("calibration", b'{"dice_line": {}}', "not a calibration (not enough values"),
    ("calibration", b'{"temperature": 1%b}' % (400 * b"0"), "not a calibration (int too large"),
]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def fuzzer(request, tmp_path):
    return fuzz.Fuzzer(fuzz.TARGETS[request.param], tmp_path / "input", tmp_path)


@pytest.mark.parametrize("fuzzer", fuzz.TARGETS, indirect=True)
def test_any_bytes_are_answered_or_told_of(fuzzer, tmp_path):
    seeds = fuzzer.target.seeds(tmp_path)
    for data in itertools.islice(fuzz.mutations(fuzzer.target, seeds), COUNT):
        fuzzer(data)
    assert fuzzer.findings == {}
    assert len(seeds) / 2 <= fuzzer.answered < COUNT  # good inputs are read, and not all are good


@pytest.mark.parametrize(("fuzzer", "data", "says"), FOUND, indirect=["fuzzer"])
def test_what_was_found_is_told_of(fuzzer, data, says):
    assert fuzzer(data) is None
    with pytest.raises(fuzz.UserError) as caught:
        fuzzer.target.look(fuzzer.folder / fuzzer.target.file)
    assert says in str(caught.value)


def test_the_same_seed_makes_the_same_inputs(tmp_path):
    target = fuzz.TARGETS["calibration"]
    first, again, other = (
        list(itertools.islice(fuzz.mutations(target, target.seeds(tmp_path), seed), 50)) for seed in (0, 0, 1)
    )
    assert first == again != other


def raising(text):
    def look(path):
        raise fuzz.UserError(text)

    return look


class TestFindings:
    """The fuzzer sees what it looks for."""

    @pytest.mark.parametrize(
        ("look", "wrong"),
        [
            (lambda path: 1 / 0, "ZeroDivisionError: division by zero"),
            (lambda path: bytearray(2 * fuzz.MEMORY), "MemoryError"),
            (raising("scan: bad"), "no advice: scan: bad"),
            (raising("unexpected KeyError: 'a'"), "unexpected KeyError"),
        ],
    )
    def test_other_errors_memory_and_lines_that_do_not_help(self, tmp_path, look, wrong):
        found = fuzz.Fuzzer(fuzz.Target("scan", lambda folder: [], look), tmp_path / "input", tmp_path)
        assert wrong in found(b"long")
        found(b"a")
        assert list(found.findings.values()) == [b"a"]  # the shorter one is kept
        assert [path.read_bytes() for path in tmp_path.glob("*_scan")] == [b"a"]

    def test_a_line_with_advice_is_right(self, tmp_path):
        look = raising("scan: found nothing, expected something; fix it")
        found = fuzz.Fuzzer(fuzz.Target("scan", lambda folder: [], look), tmp_path)
        assert found(b"") is None
        assert found.findings == {}
        assert (found.tried, found.answered) == (1, 0)

    def test_late(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fuzz, "SECONDS", -1)
        assert fuzz.Fuzzer(fuzz.Target("scan", lambda folder: [], lambda path: None), tmp_path)(b"") == "0 s"
