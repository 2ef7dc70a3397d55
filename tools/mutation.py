"""Change one expression of the package at a time, and count the changes that the fast tests notice.

    python tools/mutation.py --sample 300                # a random sample over all modules
    python tools/mutation.py metrics/lesions.py --sample 0   # every mutant of one module

Each mutant is a copy of the package with one change. The tests that run the changed line, as coverage.py found, run in
a fork of a process that has imported the libraries, quickest first, until one fails. `mutation_equivalent.csv` lists
mutants that cannot change any result, each with the reason; they do not run.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import csv
import gc
import itertools
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("schedulers", "networks", "inferers", "metrics", "transforms", "cli/planner.py")
EQUIVALENT = ROOT / "tools" / "mutation_equivalent.csv"
SECONDS = 120  # of the processor for the tests of one mutant, which a loop without an end uses up
BUDGET = 40.0  # seconds of the tests of one mutant, as they took without it
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.MatMult: ast.Mult},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
}
NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "floor": "ceil", "ceil": "floor", "any": "all"}
NAMES |= {"all": "any", "argmin": "argmax", "argmax": "argmin", "zeros_like": "ones_like", "ones_like": "zeros_like"}
DROPPED = ("clamp", "clamp_", "float", "double", "sqrt", "abs", "log", "square", "softmax", "eval", "round", "flip")
UNCHANGED = ("dtype", "device", "strict", "name", "desc", "encoding")  # keyword arguments
SKIPPED = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.Global, ast.JoinedStr)


class Mutant(NamedTuple):
    """One change: module, function, line and its code, text before and after, and the place of the text in the file."""

    module: str
    function: str
    line: int
    code: str
    before: str
    after: str
    start: int
    end: int

    @property
    def key(self) -> tuple[str, ...]:
        """Return what identifies the mutant while lines move."""
        return self.module, self.function, self.code, self.before, self.after


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the changed copies of one node."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        yield _with(node, op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.Compare) and len(node.ops) <= 2:
        for i, op in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:i], SWAPS[type(op)](), *node.ops[i + 1 :]])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value
        yield ast.Constant(value + 1 if isinstance(value, int) else value * 2 or 1.0)
    elif isinstance(node, ast.IfExp | ast.If | ast.While) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        yield _with(node.test, negated=True)
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in NAMES:
            new = ast.Name(NAMES[name]) if isinstance(node.func, ast.Name) else _with(node.func, attr=NAMES[name])
            yield _with(node, func=new)
        if name in DROPPED and isinstance(node.func, ast.Attribute):
            yield node.func.value
        for i, word in enumerate(node.keywords):
            if word.arg not in (None, *UNCHANGED):
                yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def _with(node: ast.AST, negated: bool = False, **fields: object) -> ast.AST:
    if negated:
        return ast.UnaryOp(ast.Not(), node)
    return type(node)(**{name: getattr(node, name, None) for name in node._fields} | fields)


def mutants(module: str) -> list[Mutant]:
    """Return all mutants of a module, a path below the package."""
    text = (ROOT / "monai_pdddpm" / module).read_text(encoding="utf-8")
    offsets = [0]
    for line in text.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found: list[Mutant] = []
    lines = text.splitlines()

    def visit(node: ast.AST, function: str) -> None:
        call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.keyword) and node.arg in UNCHANGED:
            return
        if isinstance(node, SKIPPED) or call.startswith(("logger.", "warnings.", "check_", "UserError", "print")):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}" if function else node.name
        for new in changes(node):
            target = node.test if isinstance(node, ast.IfExp | ast.If | ast.While) else node
            start = offsets[target.lineno - 1] + target.col_offset
            end = offsets[target.end_lineno - 1] + target.end_col_offset
            after = ast.unparse(ast.fix_missing_locations(new))
            expression = isinstance(new, ast.expr) and not isinstance(new, ast.Constant)
            after = f"({after})" if expression else after
            code = lines[target.lineno - 1].strip()
            found.append(Mutant(module, function, target.lineno, code, ast.unparse(target), after, start, end))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_comment", "bases", "ctx"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, function)

    visit(ast.parse(text), "")
    return found


class Coverage:
    """Note which tests run which lines of the copied package, and how long each takes; a plugin of pytest."""

    def __init__(self, copy: Path) -> None:
        import coverage

        self.package = copy / "monai_pdddpm"
        self.tracer = coverage.Coverage(source=[str(self.package)], data_file=None)
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Attribute the lines that follow to a test."""
        self.tracer.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the seconds of a test, its fixtures included."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def found(self) -> tuple[dict[str, float], dict[str, dict[str, list[int]]]]:
        """Return the fields of `Covered`."""
        print("tests that fail without a change, not used:", self.failed, file=sys.__stderr__, flush=True)
        return {test: seconds for test, seconds in self.seconds.items() if test not in self.failed}, self.lines()

    def lines(self) -> dict[str, dict[str, list[int]]]:
        """Return the lines of each module that each test runs."""
        data = self.tracer.get_data()
        found: dict[str, dict[str, list[int]]] = {}
        for file in data.measured_files():
            lines: dict[str, list[int]] = {}
            for line, tests in data.contexts_by_lineno(file).items():
                for test in set(tests) - self.failed - {""}:
                    lines.setdefault(test, []).append(line)
            module = Path(file).relative_to(self.package).as_posix()
            found[module] = lines
        return found


class Covered(NamedTuple):
    """Seconds of each test that passes without a mutant, and the lines of each module that each test runs."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[int]]]


def covered_lines(copy: Path, result: Path | None) -> Covered:
    """Run the fast tests without a mutant; `result` keeps what is found in a file."""
    result = result or copy / "coverage.json"
    if not result.is_file() and os.fork() == 0:
        plugin = Coverage(copy)
        plugin.tracer.start()
        _test(copy, ["tests"], plugin, lambda: result.write_text(json.dumps(plugin.found())))
    with contextlib.suppress(ChildProcessError):  # none if the result was there
        os.wait()
    return Covered(*json.loads(result.read_text()))


def tests_of(mutant: Mutant, covered: Covered) -> list[str]:
    """Return the tests that run the line of a mutant, as far as the budget goes: those of its module first.

    The tests of the module come in any case, because some run it in other processes, which coverage.py does not see. A
    line outside of functions runs on import; all tests that run the module belong to it.
    """
    own = f"/test_{Path(mutant.module).stem.rstrip('s')}"
    tests = covered.lines.get(mutant.module, {})
    found = {name for name, lines in tests.items() if mutant.line in lines} or {*tests}
    found |= {name for name in covered.seconds if own in name}
    ordered = sorted(found, key=lambda name: (own not in name, covered.seconds[name]))
    spent = itertools.accumulate(covered.seconds[name] for name in ordered)
    return [name for name, total in zip(ordered, spent, strict=True) if total < BUDGET]


def survives(mutant: Mutant, copy: Path, covered: Covered) -> bool:
    """Return whether the fast tests that run the line pass with a mutant in the copy of the package."""
    path = copy / "monai_pdddpm" / mutant.module
    original, times = path.read_bytes(), path.stat()
    path.write_bytes(original[: mutant.start] + mutant.after.encode() + original[mutant.end :])
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        _test(copy, tests_of(mutant, covered))
    status = os.waitpid(child, 0)[1]
    path.write_bytes(original)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # Python's cached code of the file is valid again
    return status == 0


def _test(copy: Path, tests: list[str], plugin: object = None, then: Callable[[], object] = bool) -> None:
    """Run tests in this process, which then ends: 0 if all pass."""
    os.setpgid(0, 0)
    code = 1
    with contextlib.suppress(BaseException):
        sys.path[:0] = [str(copy)]
        os.environ["PYTHONPATH"] = str(copy)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        import pytest

        without = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "unraisableexception")]
        options = ["-q" if plugin else "-qx", *without, f"--rootdir={ROOT}"]
        os.chdir(ROOT)
        code = int(pytest.main([*options, *tests], plugins=[plugin] if plugin else []))
        then()
    os._exit(code)


def main() -> None:
    """Run the mutants, print each survivor and the table by folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="folders or files below monai_pdddpm; all of MODULES by default")
    parser.add_argument("--sample", type=int, default=300, help="number of mutants, 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no further mutant after this time")
    parser.add_argument("--coverage", type=Path, help="file for the tests of each line, reused if it is there")
    parser.add_argument("--least", type=float, default=0.0, help="exit with 1 if a smaller share is killed")
    options = parser.parse_args()
    import hypothesis  # noqa: F401  (before the forks, which then need not read them)
    import matplotlib.pyplot  # noqa: F401
    import monai.bundle
    import monai.engines
    import monai.transforms  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torchmetrics  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # the forks then do not search the libraries for garbage, which takes longer than most tests
    package = ROOT / "monai_pdddpm"
    files = [
        path for name in options.modules or MODULES for path in sorted(package.glob(f"{name}/*.py")) or [package / name]
    ]
    found = [m for path in files if path.name != "__init__.py" for m in mutants(path.relative_to(package).as_posix())]
    rows = list(csv.reader(EQUIVALENT.open(encoding="utf-8"))) if EQUIVALENT.is_file() else []
    equivalent = {tuple(row[:5]) for row in rows}
    chosen = random.Random(options.seed).sample(found, min(options.sample or len(found), len(found)))
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for path in ROOT.glob("[!.]*"):
            if path != package:
                (copy / path.name).symlink_to(path)
        compileall.compile_dir(package, quiet=1)
        shutil.copytree(package, copy / "monai_pdddpm")
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        covered = covered_lines(copy, options.coverage)
        begun = time.monotonic()
        for mutant in chosen:
            if time.monotonic() - begun > 60 * options.minutes:
                break
            outcome, start = "equivalent", time.monotonic()
            if mutant.key not in equivalent:
                outcome = "survived" if survives(mutant, copy, covered) else "killed"
            counts.setdefault(mutant.module.split("/")[0], Counter())[outcome] += 1
            print(f"{outcome} {time.monotonic() - start:.1f} s", mutant, file=sys.stderr, flush=True)
            if outcome == "survived":
                print(f"{mutant.module}:{mutant.line} {mutant.function}: {mutant.before} -> {mutant.after}", flush=True)
    total = sum(counts.values(), Counter())
    print("| folder | mutants | killed | equivalent | survived |\n|---|---|---|---|---|")
    for name, count in {**counts, "all": total}.items():
        print(f"| {name} | {sum(count.values())} | {count['killed']} | {count['equivalent']} | {count['survived']} |")
    share = total["killed"] / max(total["killed"] + total["survived"], 1)
    print(f"killed: {100 * share:.1f} % of {total['killed'] + total['survived']} mutants of {len(found)} possible ones")
    sys.exit(share < options.least)


if __name__ == "__main__":
    main()
