"""MkDocs hooks: pages that are made from the repository when the site is built.

- ``index.md`` is the README.
- ``reference/keys.md`` lists the keys of ``configs/`` with the value of each bundle.
- ``reference/api/<package>.md`` documents one package of ``monai_pdddpm``.
- ``repository/...`` shows pages that stay beside what they describe: model cards, benchmark tables, the changelog.

Links in pages are those of the repository, so that they also work on a Git server; they are rewritten for the site.
A link to ``keys.json`` leads to ``keys.md`` there.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "configs/presets/README.md"),
    *(f"{folder}/*.{ending}" for folder in ("benchmarks/*", "bundles/*/docs", "tools/*") for ending in ("md", "png")),
)
SHOWN_PARTS = ("scan", "network_def", "inferer")
PROGRAMS = ("inference", "train", "train_segmenter", "evaluate", "calibrate", "export", "multi_gpu_inference")
WORDS = json.loads((ROOT / "docs" / "reference" / "keys.json").read_text(encoding="utf-8"))
MEANINGS: dict[str, str] = WORDS["meanings"]
NOT_SET: list[str] = WORDS["not_set"]  # parts of the pipeline that happen to be plain values
INTRODUCTION = """# Keys of the configurations

Any key below can be given on a command line, for example `--members 16`. A key inside a part of the pipeline is
reached by `#`, for example `--inferer#overlap 0.25`; the settings of the inferer are those of
[EnsembleConfig](api/inferers.md). A table lists what its program adds to the programs above it. The values are those of
the three bundles; this page is made from their configurations."""
PAGES = {"README.md": "index.md", "docs/reference/keys.json": "reference/keys.md"}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the repository."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    files.append(File.generated(config, "reference/keys.md", content=keys_page()))
    for path in sorted(ROOT.glob("monai_pdddpm/*/__init__.py")):
        name = path.parent.name
        if name != "cli":  # a program, not an interface
            exports = "__all__" in path.read_text(encoding="utf-8")
            modules = [] if exports else [f".{each.stem}" for each in sorted(path.parent.glob("[a-z]*.py"))]
            parts = [f"::: monai_pdddpm.{name}{module}\n" for module in modules or [""]]
            page = "\n".join([f"# monai_pdddpm.{name}\n", *parts])
            files.append(File.generated(config, f"reference/api/{name}.md", content=page))
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, f"repository/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository to links between pages of the site."""
    uri = page.file.src_uri
    here = {"index.md": "README.md"}.get(uri) or uri.removeprefix("repository/" if "repository/" in uri else "")
    if not uri.startswith(("index.md", "repository/")):
        here = f"docs/{uri}"

    def rewrite(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link["target"]))
        target = path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
        target = PAGES.get(path, target)
        if files.get_file_from_path(target):
            to = posixpath.relpath(target, posixpath.dirname(uri) or ".")
            return f"{link['image']}[{link['text']}]({to}{link['anchor'] or ''})"
        return link["text"] if (ROOT / path).exists() else link[0]  # a source file has no page

    return LINK.sub(rewrite, markdown)


def keys_page() -> str:
    """Return the page of the keys that a command line may set: a table for each program, of what it adds."""
    bundles = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/inference.json"))
    names = [bundle.name.split("_")[0] for bundle in bundles]
    lines, listed = [INTRODUCTION], set(NOT_SET)
    for program in PROGRAMS:
        contents = [plain_keys(bundle / "configs" / f"{program}.json") for bundle in bundles]
        keys = [key for key in dict.fromkeys(key for content in contents for key in content) if key not in listed]
        if keys:
            listed.update(keys)
            lines += [
                f"\n## {program}.json\n",
                f"| key | meaning | {' | '.join(names)} |",
                "|---" * (2 + len(names)) + "|",
            ]
            for key in keys:
                values = " | ".join(shown(content.get(key)) for content in contents)
                lines.append(f"| `{key}` | {MEANINGS.get(key, '')} | {values} |")
    return "\n".join(lines) + "\n"


def plain_keys(path: Path) -> dict[str, Any]:
    """Return the keys of a configuration that hold plain values, also inside the parts of `SHOWN_PARTS`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for key, value in content.items():
        if not is_part(value):
            found[key.replace("::", "#")] = value
        elif key in SHOWN_PARTS and isinstance(value, dict):
            inside = {f"{key}#{name}": each for name, each in value.items() if not name.startswith("_")}
            found |= {name: each for name, each in inside.items() if not is_part(each)}
    # references are no settings, nor are expressions inside a part
    return {key: value for key, value in found.items() if not str(value).startswith(("@", "$") if "#" in key else "@")}


def is_part(value: Any) -> bool:
    """Return whether a value describes parts of the pipeline: an object to make, or statements to run."""
    return "_target_" in json.dumps(value) or (isinstance(value, list) and "$" in json.dumps(value))


def shown(value: Any) -> str:
    """Return a value as a cell of a table."""
    if value is None:
        return ""
    if match := re.fullmatch(r"\$@(bundle_root|output_dir) \+ '(.*)'", str(value)):
        return f"`<{match[1]}>{match[2]}`"
    return "computed" if str(value).startswith("$") else f"`{json.dumps(value)}`".replace("|", "\\|")
