"""Nobody is let in: nothing of an attack is executed or written outside, and one line says why it is refused."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from attacks import ATTACKS, BEGIN, DOCS, END, outcomes
from attacks_payload import PAYLOADS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    return list(outcomes())


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=lambda number: " ".join(map(str, ATTACKS[number][1:3])))
def test_attack(found, number):
    assert found[number].held, found[number]


@pytest.mark.parametrize("payload", [one for one in PAYLOADS if "TorchScript" not in one])
def test_payloads_would_do_something(tmp_path, payload):
    """Loaded carelessly, each leaves its mark: else nothing was shown."""
    PAYLOADS[payload](tmp_path / "model.pt", tmp_path / "mark")
    if "torch" in payload:
        torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "model.pt").read_bytes())
    assert (tmp_path / "mark").exists()


def test_docs_have_the_outcomes():
    table = DOCS.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].replace("\\", "")
    assert re.search(r"^\d+ attacks: 0 executed, 0 wrote outside", table, re.MULTILINE)
    for _, attack, place, _, _ in ATTACKS:
        assert attack in PAYLOADS or attack.replace("\\", "") in table
        assert place in table


def commands():
    """Return each command that starts a server, with its file, wherever it is told."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md"), *ROOT.glob("configs/*.md")]
    files += [*ROOT.glob("apps/**/*.py"), *ROOT.glob("monai_pdddpm/**/*.py")]
    for file in files:
        text = re.sub(r"\\\n\s*", " ", file.read_text(encoding="utf-8")).replace('" \n', '"\n')
        for match in re.finditer(
            r"monailabel\S* start_server.*(?:\n +[f]?\".*)?|monailabel\.main start_server.*", text
        ):
            yield file, match[0]


def test_servers_listen_to_this_computer_alone():
    found = list(commands())
    assert len(found) >= 4
    for file, command in found:
        assert "--host 127.0.0.1" in command, f"{file}: {command}"
