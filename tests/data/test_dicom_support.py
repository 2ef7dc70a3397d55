"""The table of DICOM kinds in the documentation is what the reader does, and nothing is read wrongly."""

import runpy
from pathlib import Path

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "reliability" / "dicom.py"))


def test_the_page_is_up_to_date():
    assert TOOL["PAGE"].read_text(encoding="utf-8") == TOOL["page"]()


def test_each_kind_is_read_exactly_or_refused():
    results = [line.split(" | ")[1] for line in TOOL["PAGE"].read_text(encoding="utf-8").splitlines() if " | " in line]
    assert len(results) > 50
    assert {result.split(":")[0].strip(" |") for result in results[1:]} == {"difference 0", "refused"}
