import gzip
import itertools
import logging

import fuzz
import pytest
from good_scan import nifti

COUNT = 60
META = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nCompressedDataSize = %b\n"
    b"DimSize = 5 4 3\nElementType = MET_FLOAT\nElementDataFile = LOCAL\nx"
)
NRRD = b"NRRD0004\ntype: float\ndimension: 3\nspace: %b\nsizes: 5 4 3\nencoding: raw\n\n" % (1100 * b"x") + bytes(240)
EARLIER_FINDINGS = [
    ("nifti", nifti(fuzz.SMALL[:1, :1, :1], endian=">", edits={("dim", 0): -129})),
    ("nifti_gz", gzip.compress(nifti(fuzz.SMALL, endian=">", edits={("dim", 0): -129}))),
    *(("mha", META % size) for size in (b"18446744073709551615", b"-1", b"1e999")),
    ("nrrd", NRRD),  # ITK ended the process
]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def fuzzer(request, tmp_path):
    return fuzz.Fuzzer(fuzz.TARGETS[request.param], tmp_path / "input", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fuzzer", fuzz.TARGETS, indirect=True)
def test_any_bytes_are_read_or_refused(fuzzer, tmp_path):
    seeds = fuzzer.target.seeds(tmp_path)
    for data in itertools.islice(fuzz.mutations(fuzzer.target, seeds), COUNT):
        fuzzer(data)
    assert fuzzer.findings == {}
    assert len(seeds) / 2 <= fuzzer.read < COUNT


@pytest.mark.slow
@pytest.mark.parametrize(("fuzzer", "data"), EARLIER_FINDINGS, indirect=["fuzzer"])
def test_earlier_findings_are_refused(fuzzer, data):
    assert fuzzer(data) is None
    assert fuzzer.read == 0


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), fuzz.UserError("scan: bad")])
def test_other_errors_and_lines_without_remedy_are_findings(tmp_path, error):
    def look(path):
        raise error

    found = fuzz.Fuzzer(fuzz.Target("scan", lambda folder: [], look), tmp_path / "input", tmp_path)
    assert found(b"long")
    found(b"a")
    assert list(found.findings.values()) == [b"a"]  # the shorter input
