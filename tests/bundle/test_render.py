"""The pipeline stands once: templates are filled and laid over one another, and that is what is committed."""

import copy
import json
import runpy
from pathlib import Path

import pytest

from monai_pdddpm.bundle.render import as_text, fill, render_all, render_bundle
from monai_pdddpm.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TASKS = sorted(path.stem for path in (ROOT / "configs" / "tasks").glob("*.json"))


def write(folder, files):
    for name, content in files.items():
        path = folder / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / "configs"


TASK = {"name": "t", "size": [8, 8], "epochs": 5, "net": {"_target_": "N"}, "more": [{"a": 1}, 2], "no": None}
BASE = {"a": 1, "b": {"c": [1, 2], "d": {"e": 5}}, "steps": [{"k": 1}, {"k": 2}], "gone": 3}


class TestFill:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("{{size}}", [8, 8]),
            ("{{epochs}}", 5),
            ("{{no}}", None),
            ("{{net}}", {"_target_": "N"}),
            ("a {{epochs}} b {{name}}", "a 5 b t"),
            ("$f('{{name}}')", "$f('t')"),
            ({"k": ["{{epochs}}", {"d": "{{size}}"}]}, {"k": [5, {"d": [8, 8]}]}),
            (["x", "{{*more}}", "y"], ["x", {"a": 1}, 2, "y"]),
            (["{{more}}"], [[{"a": 1}, 2]]),
            ({"a": 1, "{{*net}}": None, "b": 2}, {"a": 1, "_target_": "N", "b": 2}),
            ({"a": 1, "{{*optional}}": None}, {"a": 1}),
            ("@plain", "@plain"),
            ("{single} {{ spaced }}", "{single} {{ spaced }}"),
            (3.5, 3.5),
            (None, None),
            (True, True),
        ],
    )
    def test_places(self, content, expected):
        assert fill(content, TASK, "x.json") == expected

    def test_values_are_copies(self):
        task = copy.deepcopy(TASK)
        filled = fill(["{{net}}", "{{net}}", "{{*more}}"], task, "x.json")
        filled[0]["_target_"] = "M"
        filled[2]["a"] = 7
        assert filled[1] == {"_target_": "N"}
        assert task == TASK

    @pytest.mark.parametrize("content", ["{{epoch}}", "a {{epoch}}", ["{{*epoch}}"], {"k": {"l": "{{epoch}}"}}])
    def test_missing_key(self, content):
        with pytest.raises(UserError, match=r"x\.json: the task 't' has no key 'epoch'; add it to configs/tasks"):
            fill(content, TASK, "x.json")


class TestTemplates:
    def render(self, tmp_path, top, task=None, base=None):
        files = {
            "_base.json": base or BASE,
            "top.json": {"extends": "_base.json"} | top,
            "tasks/t.json": task or {},
        }
        return render_bundle(write(tmp_path, files), "t")["top.json"]

    def test_extends_keeps_what_is_not_named(self, tmp_path):
        assert self.render(tmp_path, {"f": 6}) == BASE | {"f": 6}

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("a", 2, {"a": 2}),
            ("b::d::e", 6, {"b": {"c": [1, 2], "d": {"e": 6}}}),
            ("b::d", 6, {"b": {"c": [1, 2], "d": 6}}),
            ("b::new::deep", 6, {"b": {"c": [1, 2], "d": {"e": 5}, "new": {"deep": 6}}}),
            ("steps::1::k", 9, {"steps": [{"k": 1}, {"k": 9}]}),
            ("steps::0", 9, {"steps": [9, {"k": 2}]}),
            ("+b::c", [3], {"b": {"c": [1, 2, 3], "d": {"e": 5}}}),
            ("+b::d", {"f": 6}, {"b": {"c": [1, 2], "d": {"e": 5, "f": 6}}}),
            ("+steps", [{"k": 3}], {"steps": [{"k": 1}, {"k": 2}, {"k": 3}]}),
            ("+steps::1", [{"k": 3}, {"k": 4}], {"steps": [{"k": 1}, {"k": 3}, {"k": 4}, {"k": 2}]}),
        ],
    )
    def test_ids(self, tmp_path, key, value, expected):
        assert self.render(tmp_path, {key: value}) == BASE | expected

    def test_null_takes_away(self, tmp_path):
        found = self.render(tmp_path, {"gone": None, "b::c": None, "never": None})
        assert found == {"a": 1, "b": {"d": {"e": 5}}, "steps": BASE["steps"]}

    def test_several_floors(self, tmp_path):
        configs = write(
            tmp_path,
            {
                "_0.json": {"a": 0, "list": ["{{x}}"], "n": 0},
                "_1.json": {"extends": "_0.json", "a": 1, "+list": [1]},
                "top.json": {"extends": "_1.json", "+list": ["{{*y}}"], "n": "{{x}}"},
                "other.json": {"extends": "_1.json"},
                "tasks/t.json": {"x": "from the task", "y": [2, 3]},
            },
        )
        rendered = render_bundle(configs, "t")
        assert rendered == {
            "other.json": {"a": 1, "list": ["from the task", 1], "n": 0},
            "top.json": {"a": 1, "list": ["from the task", 1, 2, 3], "n": "from the task"},
        }

    def test_overrides_come_last_and_for_their_file_only(self, tmp_path):
        task = {"x": 1, "overrides": {"top.json": {"a": 9, "+b::c": [0], "gone": None}}}
        configs = write(tmp_path, {"_b.json": BASE, "top.json": {"extends": "_b.json"}, "tasks/t.json": task})
        write(tmp_path, {"other.json": {"extends": "_b.json", "a": "{{name}}"}})
        rendered = render_bundle(configs, "t")
        assert rendered["top.json"] == {"a": 9, "b": {"c": [1, 2, 0], "d": {"e": 5}}, "steps": BASE["steps"]}
        assert rendered["other.json"] == BASE | {"a": "t"}

    def test_overrides_of_a_file_that_is_not_rendered(self, tmp_path):
        with pytest.raises(UserError, match=r"t: overrides of \['tip.json'\], which no template"):
            self.render(tmp_path, {}, {"overrides": {"tip.json": {}}})

    def test_a_task_may_do_without_a_template(self, tmp_path):
        configs = write(tmp_path, {"a.json": {}, "b.json": "{{", "tasks/t.json": {"without": ["b.json"]}})
        assert render_bundle(configs, "t") == {"a.json": {}}


class TestText:
    @pytest.mark.parametrize("name", TASKS)
    def test_reads_back(self, name):
        for content in render_bundle(ROOT / "configs", name).values():
            assert json.loads(as_text(content)) == content

    def test_short_lists_on_one_line(self):
        content = {
            "a": [1, "x"],
            "b": {},
            "c": [],
            "d": [{"e": [None]}, {"h": [60 * "x", 60 * "y"]}],
            "f": list(range(60)),
            "g": "ä",
        }
        text = as_text(content)
        assert json.loads(text) == content
        assert text.startswith(
            '{\n    "a": [1, "x"],\n    "b": {},\n    "c": [],\n    "d": [\n        {"e": [null]},\n'
        )
        assert '        {\n            "h": [\n' in text
        assert text.endswith('"g": "ä"\n}\n')
        assert max(map(len, text.splitlines())) < 120


class TestAll:
    def write(self, folder):
        tasks = {"tasks/one.json": {}, "tasks/two.json": {}}
        write(folder, {"run.json": {"who": "{{name}}"}, "_base.json": {}, "logging.conf": "[loggers]\n"} | tasks)
        (folder / "LICENSE").write_text("free")

    def test_every_task_gets_its_folder(self, tmp_path):
        self.write(tmp_path)
        written = render_all(tmp_path)
        for name in ("one", "two"):
            folder = tmp_path / "bundles" / name
            assert json.loads((folder / "configs" / "run.json").read_text()) == {"who": name}
            assert (folder / "configs" / "logging.conf").read_text() == "[loggers]\n"
            assert (folder / "LICENSE").read_text() == "free"
        assert sorted(written) == sorted(path for path in (tmp_path / "bundles").rglob("*") if path.is_file())

    @pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
    def test_command_changes_nothing_the_second_time(self, tmp_path, monkeypatch, capsys):
        self.write(tmp_path)
        render_all(tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        monkeypatch.setattr("sys.argv", ["render", str(tmp_path)])
        runpy.run_module("monai_pdddpm.bundle.render", run_name="__main__")
        assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "bundles/one/configs/run.json")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize("name", TASKS)
    def test_committed_bundles_are_what_rendering_gives(self, name):
        folder = ROOT / "bundles" / name / "configs"
        advice = "was changed by hand or not rendered; run python -m monai_pdddpm.bundle.render"
        for file, content in render_bundle(ROOT / "configs", name).items():
            assert (folder / file).read_text(encoding="utf-8") == as_text(content), f"{folder / file} {advice}"
        assert (folder / "logging.conf").read_bytes() == (ROOT / "configs" / "logging.conf").read_bytes(), advice
        assert (folder.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes(), advice

    @pytest.mark.parametrize("name", TASKS)
    def test_nothing_is_left_of_templates_that_are_gone(self, name):
        known = {*render_bundle(ROOT / "configs", name), "logging.conf", "metadata.json"}
        assert {path.name for path in (ROOT / "bundles" / name / "configs").iterdir()} == known
