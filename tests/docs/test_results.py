"""README, model cards and metadata show the committed tables."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "results.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_show_the_committed_tables(script):
    for path, text in script.documents().items():
        assert (script.BEGIN if path.suffix == ".md" else '"mean_dice"') in text, path
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python docs/results.py"


def test_table_by_hand(script):
    statistic = {"mean": 0.5, "low": 0.25, "high": 0.75}
    summary = {
        "methods": {"segmenter": {"mean": {"dice": statistic}}, "ensemble": {"mean": {"dice": statistic}}},
        "paired_difference": {"mean": {"dice": {"mean": 0.0, "low": -0.1, "high": 0.1}}},
    }
    assert script.comparison(summary, {("mean", "dice"): "Dice"}).splitlines()[2] == (
        "| Dice | 0.5000 [0.2500, 0.7500] | 0.5000 [0.2500, 0.7500] | +0.0000 [-0.1000, +0.1000] |"
    )


def test_metadata_by_hand(script):
    means = {key: {"mean": index / 3} for index, (_, key) in enumerate(script.METADATA.values())}
    labels = {"mean": means, "near structure, calibrated": means}
    text = '{"eval_metrics": {"segmenter": {\n "mean_dice": 9, "old": 1\n}, "cases": 2}}'
    found = json.loads(script.with_metrics(text, {"methods": {"segmenter": labels}}))["eval_metrics"]
    assert found["cases"] == 2
    assert found["segmenter"]["mean_hd95_mm"] == 0.3333
    assert list(found["segmenter"]) == list(script.METADATA)
