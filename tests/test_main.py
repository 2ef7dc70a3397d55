"""The command line itself: few verbs, each with the same options; what they do is tested in tests/cli."""

import json

import pytest

from monai_pdddpm.__main__ import main, parser
from monai_pdddpm.utils.errors import TRACEBACK_VARIABLE, UserError
from monai_pdddpm.visualize import report


def test_help_lists_few_verbs(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("create-bundle", "check", "report", "info"))
    assert len(out.splitlines()) < 25


@pytest.mark.parametrize(
    "words", [["create-bundle", "x", "--dataset", "d"], ["check", "d"], ["report", "d"], ["info", "d"]]
)
def test_all_verbs_take_quiet_and_json(words):
    options = parser().parse_args([*words, "--quiet", "--json"])
    assert options.quiet
    assert options.json


def test_report(tmp_path, monkeypatch, capsys):
    asked = []

    def write(folder, *, overwrite=False):
        asked.append((folder, overwrite))
        return folder / "index.html"

    monkeypatch.setattr(report, "write_report", write)
    assert main(["report", str(tmp_path), "--json", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "index.html")}
    assert asked == [(tmp_path, True)]
    assert main(["report", str(tmp_path / "gone")]) == 2


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    assert main(["info", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(UserError):
        main(["info", str(tmp_path)])
