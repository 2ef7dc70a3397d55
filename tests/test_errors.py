"""A mistake of the user's ends in one line, everything else in the traceback as ever."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from monai_pdddpm.errors import UserError, printable, user_message

ROOT = Path(__file__).parents[1]
LINE = "scan.nii: found a text, expected a scan; export it again"


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    script = "from monai_pdddpm.errors import UserError, friendly_errors\nfriendly_errors()\n" + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)


def test_user_error_is_one_line():
    done = run(f"raise UserError({LINE!r})")
    assert (done.returncode, done.stderr) == (1, f"error: {LINE}\n")


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


def test_line_breaks_are_taken_out():
    assert run("raise UserError('a: found\\nb')").stderr == "error: a: found b\n"


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
    assert "KeyboardInterrupt" in done.stderr
    assert "error: a\n" not in done.stderr.splitlines(keepends=True)


def test_variable_brings_the_traceback_back():
    done = run(f"raise UserError({LINE!r})", MONAI_PDDDPM_TRACEBACK="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


def test_second_call_changes_nothing():
    done = run("""
        import sys
        hook = sys.excepthook
        assert friendly_errors() is None
        print(sys.excepthook is hook)
    """)
    assert done.stdout == "True\n"


def test_message_is_found_in_a_traceback_that_became_text():
    text = f"no writer\nTraceback (most recent call last):\n  x\nmonai_pdddpm.errors.UserError: {LINE}\n"
    assert user_message(RuntimeError(text)) == LINE


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("of class monai_pdddpm.errors.UserError: a")])
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
