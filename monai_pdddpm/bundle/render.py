"""Render the configurations of every bundle from the pipeline in ``configs/`` and the values of each task.

``configs/*.json`` are templates: a string ``"{{key}}"`` stands for the task's value of that key (any JSON value), and
``{{key}}`` inside a longer string for its text. ``"{{*key}}"`` in a list stands for the items of the task's list, and
``"{{*key}}": null`` in an object for the entries of the task's object, if it has one. ``"extends": "_other.json"`` puts
a template on top of another one; its keys may be ids with MONAI's separator (``"train::dataloader::batch_size"``), and
with MONAI's ``+`` before them add to a list or dictionary, or put items into a list before the place that ends the id;
null takes an entry away. Templates whose names begin with ``_`` are such bases only. A task,
``configs/tasks/<name>.json``, holds the values, under ``overrides`` more ids for one rendered file, and under
``without`` the templates that it does not want.
``python -m monai_pdddpm.bundle.render`` writes all bundles.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.errors import UserError

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render_bundle(configs: Path, name: str) -> dict[str, Any]:
    """Render the configurations of the bundle of ``configs/tasks/<name>.json``; see `render_task`."""
    return render_task(configs, json.loads((configs / "tasks" / f"{name}.json").read_text(encoding="utf-8")), name)


def render_task(configs: Path, task: dict[str, Any], name: str) -> dict[str, Any]:
    """Return file name -> content of all configurations of a task, the content of a file of ``configs/tasks``.

    Raises:
        UserError: when a template asks for a key that the task lacks, or an override meets no configuration.
    """
    task = task | {"name": name}
    overrides = task.pop("overrides", {})
    rendered = {}
    for template in sorted(configs.glob("*.json")):
        if template.name.startswith("_") or template.name in task.get("without", []):
            continue
        content = fill(_read(template), task, template.name)
        for key, value in overrides.get(template.name, {}).items():
            _set(content, key, value)
        rendered[template.name] = content
    unknown = set(overrides) - set(rendered)
    if unknown:
        raise UserError(f"{name}: overrides of {sorted(unknown)}, which no template in {configs} renders")
    return rendered


def render_all(root: Path) -> list[Path]:
    """Render every task of ``root/configs/tasks`` into ``root/bundles``; return the files written."""
    configs, written = root / "configs", []
    for task in sorted((configs / "tasks").glob("*.json")):
        folder = root / "bundles" / task.stem / "configs"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in render_bundle(configs, task.stem).items():
            (folder / name).write_text(as_text(content), encoding="utf-8")
            written.append(folder / name)
        for source, copy_to in ((configs / "logging.conf", folder), (root / "LICENSE", folder.parent)):
            written.append(Path(shutil.copyfile(source, copy_to / source.name)))
    return written


def as_text(content: Any) -> str:
    """Return JSON text with plain lists and small objects on one line."""
    return _dump(content, 0) + "\n"


def _dump(content: Any, indent: int) -> str:
    one_line = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, (dict, list)) or not content:
        return one_line
    keys, values = (content.keys(), content.values()) if isinstance(content, dict) else ([], content)
    plain = len(keys) <= 4 and not any(isinstance(value, dict) for value in values)
    if plain and indent + len(one_line) <= 119:
        return one_line
    entries = [_dump(value, indent + 4) for value in values]
    if isinstance(content, dict):
        entries = [f"{json.dumps(key)}: {entry}" for key, entry in zip(keys, entries, strict=True)]
    pad, (first, last) = " " * indent, "{}" if isinstance(content, dict) else "[]"
    return f"{first}\n" + ",\n".join(f"{pad}    {entry}" for entry in entries) + f"\n{pad}{last}"


def fill(content: Any, task: dict[str, Any], where: str) -> Any:
    """Replace every ``{{key}}`` in a JSON value by the task's value of that key; ``where`` names the template.

    Raises:
        UserError: when the task has no such key.
    """

    def value_of(key: str) -> Any:
        if key not in task:
            raise UserError(f"{where}: the task '{task.get('name')}' has no key '{key}'; add it to configs/tasks")
        return copy.deepcopy(task[key])

    if isinstance(content, dict):
        filled: dict[str, Any] = {}
        for key, value in content.items():
            filled |= task.get(key[3:-2], {}) if key.startswith("{{*") else {key: fill(value, task, where)}
        return filled
    if isinstance(content, list):
        items: list[Any] = []
        for item in content:
            if isinstance(item, str) and item.startswith("{{*"):
                items.extend(value_of(item[3:-2]))
            else:
                items.append(fill(item, task, where))
        return items
    if isinstance(content, str):
        whole = _PLACE.fullmatch(content)
        return value_of(whole[1]) if whole else _PLACE.sub(lambda m: str(value_of(m[1])), content)
    return content


def _read(template: Path) -> dict[str, Any]:
    content = json.loads(template.read_text(encoding="utf-8"))
    if "extends" not in content:
        return content
    merged = _read(template.parent / content.pop("extends"))
    for key, value in content.items():
        _set(merged, key, value)
    return merged


def _set(content: Any, key: str, value: Any) -> None:
    """Set ``content[a][b]...`` for the id ``a::b``; the value None takes the entry away.

    ``+a::b`` adds to that list or dictionary, and ``+a::1`` puts items into a list before its place 1.
    """
    *path, last = key.removeprefix("+").split("::")
    for part in path:
        content = content[int(part)] if isinstance(content, list) else content.setdefault(part, {})
    if key.startswith("+") and isinstance(content, list):
        content[int(last) : int(last)] = value
    elif key.startswith("+"):
        content[last] = content[last] + value if isinstance(value, list) else content[last] | value
    elif value is None:
        content.pop(last, None)
    elif isinstance(content, list):
        content[int(last)] = value
    else:
        content[last] = value


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Write the configurations of all bundles from configs/.")
    arguments.add_argument("root", nargs="?", default=".", type=Path, help="folder with configs/ and bundles/")
    for file in render_all(arguments.parse_args().root):
        print(file)
