import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from attacks import ATTACKS, try_attack
from payloads import PAYLOADS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack[0]}, {attack[1]}")
def test_attack_has_no_effect(attack):
    outcome = try_attack(*attack)
    assert outcome.held, outcome


@pytest.mark.parametrize("payload", [name for name in PAYLOADS if "TorchScript" not in name])
def test_payload_executes_when_unpickled(tmp_path, payload):
    PAYLOADS[payload](tmp_path / "model.pt", tmp_path / "mark")
    if "torch" in payload.lower():
        torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "model.pt").read_bytes())
    assert (tmp_path / "mark").exists()


def test_documented_servers_listen_on_this_computer_only():
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bundles/*/docs/*.md"),
        *ROOT.glob("apps/**/*.py"),
    ]
    found = []
    for file in files:
        text = re.sub(r"\\\n\s*", " ", file.read_text(encoding="utf-8")).replace('" \n', '"\n')
        pattern = r"monailabel\S* start_server.*(?:\n +[f]?\".*)?|monailabel\.main start_server.*"
        found += [(file, match) for match in re.findall(pattern, text)]
    assert len(found) >= 3
    assert [file for file, command in found if "--host 127.0.0.1" not in command] == []
