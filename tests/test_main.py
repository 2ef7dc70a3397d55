"""The command line itself; the commands are tested in tests/cli."""

import json
import subprocess
import sys

import pytest

from monai_pdddpm.__main__ import main, parser
from monai_pdddpm.cli import report
from monai_pdddpm.utils.errors import TRACEBACK_VARIABLE, Terminated, UserError


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("create-bundle", "check", "report", "info"))
    assert len(out.splitlines()) < 25


@pytest.mark.parametrize(
    "words", [["create-bundle", "x", "--dataset", "."], ["check", "."], ["report", "."], ["info", "."]]
)
def test_all_commands_take_quiet_and_json(words):
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
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "gone")])


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    assert main(["info", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(UserError):
        main(["info", str(tmp_path)])


@pytest.mark.parametrize(("stop", "by", "code"), [(KeyboardInterrupt, "Ctrl-C", 130), (Terminated, "SIGTERM", 143)])
def test_a_stopped_command_says_so_in_one_line(tmp_path, monkeypatch, capsys, stop, by, code):
    def run(options):
        raise stop

    monkeypatch.setattr(report, "run", run)
    assert main(["report", str(tmp_path)]) == code
    assert capsys.readouterr().err == f"stopped by {by}: complete files are kept\n"


@pytest.mark.parametrize(
    ("words", "known"), [(["chekc", "x"], "check"), (["info", ".", "--sizze", "3"], "unrecognized arguments: --sizze")]
)
def test_unknown_words_are_one_line(words, known, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert known in err


def imported(statements):
    """Return the packages that statements import in a process of their own."""
    code = f"import sys\n{statements}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_info_and_verify_import_neither_torch_nor_monai():
    statements = (
        "import monai_pdddpm.__main__, monai_pdddpm.cli.info, monai_pdddpm.cli.verify, monai_pdddpm.cli.bundles"
    )
    assert not imported(statements) & {"torch", "monai", "nibabel", "numpy", "ignite", "matplotlib"}


def test_check_reads_lists_and_headers_without_torch_and_monai():
    assert not imported("import monai_pdddpm.cli.check") & {"torch", "monai"}


@pytest.mark.slow  # imports MONAI
def test_inference_imports_only_what_every_case_needs():
    parts = ("bundle", "data", "transforms", "handlers", "engines", "inferers", "networks")
    statements = "import monai.bundle\n" + "\n".join(f"import monai_pdddpm.{part}" for part in parts)
    heavy = {"itk", "SimpleITK", "torchmetrics", "pydicom", "highdicom"}
    assert not imported(statements) & heavy - imported("import monai.bundle")
