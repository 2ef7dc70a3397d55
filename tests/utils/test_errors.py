"""A mistake of the user's ends in one line, everything else in the traceback unchanged."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from monai_pdddpm.utils.errors import UserError, printable, user_message

ROOT = Path(__file__).parents[2]
LINE = "scan.nii: found a text, expected a scan; export it again"


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    # a shell in the background starts its programs with SIGINT ignored
    head = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    head += "from monai_pdddpm.utils.errors import UserError, friendly_errors\nfriendly_errors(force=True)\n"
    script = head + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)


def test_wrapped_user_error_is_one_line():
    done = run(f"""
        try:
            try:
                raise UserError({LINE!r})
            except Exception as error:
                raise RuntimeError("applying transform <x>") from error
        except Exception:
            raise RuntimeError("Failed to instantiate y")
    """)
    assert (done.returncode, done.stderr) == (1, f"error: {LINE}\n")


# a bundle's logging is set up before its errors; other commands leave logging as it is
@pytest.mark.parametrize("setup", ["logging.basicConfig(level=logging.INFO); friendly_errors(force=True)", ""])
def test_an_error_in_an_engine_appears_once(setup):
    done = run(f"""
        import logging
        from ignite.engine import Engine
        {setup}
        def fail(engine, batch):
            raise UserError({LINE!r})
        Engine(fail).run([0])
    """)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count(LINE) == 1
    assert ("Engine run" in done.stderr) is bool(setup)  # ignite's other lines stay


def test_other_errors_keep_their_traceback():
    done = run("1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_interrupt_while_handling_a_user_error_is_no_user_error():
    done = run("""
        try:
            raise UserError("a")
        except UserError:
            raise KeyboardInterrupt
    """)
    assert done.stderr.startswith("stopped by Ctrl-C: ")
    assert "error: a\n" not in done.stderr.splitlines(keepends=True)


@pytest.mark.parametrize(("name", "by", "code"), [("SIGINT", "Ctrl-C", -signal.SIGINT), ("SIGTERM", "SIGTERM", 143)])
def test_a_stop_is_reported_in_one_line_with_everything_unwound(tmp_path, name, by, code):
    done = run(f"""
        import os, signal, time
        from monai_pdddpm.utils.atomic_write import atomic_write
        with atomic_write({str(tmp_path / "a.txt")!r}) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.{name})
            time.sleep(20)
    """)
    line = f"stopped by {by}: complete files are kept; the same command does what is missing\n"
    assert (done.returncode, done.stderr) == (code, line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "by", "code"), [("SIGINT", "Ctrl-C", 130), ("SIGTERM", "SIGTERM", 143)])
def test_being_stopped_while_monai_imports_is_no_failed_import(tmp_path, name, by, code):
    (tmp_path / "long_import.py").write_text(f"import signal\nsignal.raise_signal(signal.{name})\n")
    done = run(f"""
        import pydoc, sys
        sys.path.insert(0, {str(tmp_path)!r})
        pydoc.locate("long_import.Network")
    """)
    line = f"stopped by {by}: complete files are kept; the same command does what is missing\n"
    assert (done.returncode, done.stderr) == (code, line)


def test_other_handlers_of_sigterm_are_left_alone():
    script = """
        import signal, sys
        from monai_pdddpm.utils.errors import friendly_errors
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
        friendly_errors(force=True)
        signal.raise_signal(signal.SIGTERM)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 7


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [(f"raise UserError({LINE!r})", 1), ("import signal; signal.raise_signal(signal.SIGTERM)", 143)],
)
def test_variable_brings_the_traceback_back(code, exit_code):
    done = run(code, MONAI_PDDDPM_TRACEBACK="1")
    assert done.returncode == exit_code
    assert done.stderr.startswith("Traceback")


def test_a_notebook_or_script_keeps_its_hooks():
    code = """
        import signal, sys
        from monai_pdddpm.utils.errors import friendly_errors
        before = sys.excepthook, signal.getsignal(signal.SIGTERM)
        friendly_errors()
        assert (sys.excepthook, signal.getsignal(signal.SIGTERM)) == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize(("module", "changed"), [("monai.bundle", True), ("other", False)])
def test_a_command_changes_them(tmp_path, module, changed):
    folder = tmp_path.joinpath(*module.split("."))
    folder.mkdir(parents=True)
    for package in (tmp_path / module.split(".")[0], folder):
        (package / "__init__.py").touch()
    (folder / "__main__.py").write_text(
        "import sys\nfrom monai_pdddpm.utils.errors import friendly_errors\n"
        "friendly_errors()\nprint(sys.excepthook is not sys.__excepthook__)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=env, check=False)
    assert done.stdout == f"{changed}\n"


def test_message_is_found_in_a_traceback_that_became_text():
    text = f"no writer\nTraceback (most recent call last):\n  x\nmonai_pdddpm.utils.errors.UserError: {LINE}\n"
    assert user_message(RuntimeError(text)) == LINE


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("of class monai_pdddpm.utils.errors.UserError: a")])
def test_no_message_in_other_errors(error):
    assert user_message(error) is None


def test_hidden_context_is_left_alone():
    def hide():
        try:
            raise UserError("a")
        except UserError:
            raise KeyError("b") from None

    with pytest.raises(KeyError) as caught:
        hide()
    assert user_message(caught.value) is None


def test_circle_of_causes_ends():
    first, second = KeyError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first
    assert user_message(first) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 脳 a\u202fb.nii", None),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_would_break_a_line_is_escaped(text, shown):
    assert printable(text) == (text if shown is None else shown)
    assert "\x1b" not in user_message(UserError(f"{text}: found nothing"))
