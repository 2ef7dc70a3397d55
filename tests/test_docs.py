"""The documents: every link resolves, and the language is plain."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def tracked(*patterns):
    """Return the files of the repository that match, without deleted ones."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


PAGES = tracked("*.md")

# words to avoid -> plain words
DIALECT = {
    r"mend(s|ed|ing)?": "fix",
    r"told|tells?|said|says?|hears?": "report, log, print, return",
    r"doubt(s|ed|ful)?": "uncertainty",
    r"readings|(a|one|each|the|true|known) reading": "annotation",
    r"propos(al|als|es|ed|ing|e)": "pre-segmentation",
    r"rooms": "modules",
    r"rim|spoilt|passed over|of no account": "margin, damaged, skipped, ignored",
    r"as ever|anew": "unchanged, again",
    r"goes all the way|known otherwise": "runs the full chain, keeps the fallback value",
    r"in the place of": "instead of",
    r"colours?|grey|cent(re|red|res)|neighbour\w*|behaviours?|licences?|labelled|learnt": "US spelling",
    r"\w+(ogn|mal|tim)is(e|ed|es|ing)": "US spelling",
}
ALLOWED = {  # file -> old names that are refused or listed, keys and titles of others
    "CHANGELOG.md": {"doubt", "proposal"},
    "monai_pdddpm/bundle/given_settings.py": {"doubt", "proposal"},
    "monai_pdddpm/inferers/config.py": {"doubt"},
    "monai_pdddpm/cli/formats.py": {"licence"},
}
TITLE = "On Second Order Behaviour"
SEARCHED = (
    *("*.md", "*.cff", "mkdocs.yml", "setup.cfg", "pyproject.toml", ".ci", ".github"),
    *("monai_pdddpm", "configs", "bundles", "apps", "docs", "notebooks", "tools", "benchmarks"),
)
BINARY = {".png", ".pt", ".gz"}


def anchors(page):
    """Return the anchors of the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", each) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_modules_exist(page):
    for name in re.findall(
        r"`((?:monai_pdddpm|tools|benchmarks|apps|docs|tests)/[\w./]+\.py)`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_language_is_plain():
    found = []
    for path in tracked(*SEARCHED):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in BINARY or (path.stem.startswith("results") and path.suffix == ".json"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").replace(TITLE, "").splitlines(), 1):
            for words, plain in DIALECT.items():
                for match in re.finditer(rf"\b({words})\b", line, re.IGNORECASE):
                    if match[0].lower() not in ALLOWED.get(name, ()):
                        found.append(f"{name}:{number}: '{match[0]}', write: {plain}")
    assert not found, "\n".join(found)
