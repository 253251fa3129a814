"""Who may import whom, what no package may do, and how large things may get: read from the source with `ast`.

The tables are design.md section 10 and aesthetics.md section 4. A finding names file, line and offender.
"""

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "swarmtrain"

MAX_FILE_LINES = 540  # the two step machines are each clearer as one whole; all else is far shorter
MAX_FUNCTION_LINES = 70
MAX_PARAMETERS = 6

LAYERS = (
    ("core", "proto"),
    ("data", "model", "wire", "steps", "plan", "monitor"),
    ("compute", "transport", "checkpoint"),
    ("swarm", "outer", "recovery"),
    ("peer", "coordinator"),
    ("experiments",),
    ("cli",),
)

# What each package may import of swarmtrain besides itself and core.
MAY_IMPORT = {
    "core": set(),
    "proto": set(),
    "data": set(),
    "model": set(),
    "wire": set(),
    "steps": set(),
    "plan": set(),
    "monitor": set(),
    "compute": {"model", "data"},
    "transport": {"proto"},
    "checkpoint": {"model"},
    "swarm": {"transport", "plan"},
    "outer": {"transport", "wire"},
    "recovery": {"transport", "checkpoint"},
    "peer": {package for layer in LAYERS[:4] for package in layer},
    # checkpoint is numpy and safetensors only: the coordinator writes what it collects, still without torch.
    "coordinator": {"plan", "swarm", "monitor", "transport", "proto", "checkpoint", "recovery"},
    "experiments": {package for layer in LAYERS[:5] for package in layer},
    "cli": {package for layer in LAYERS[:6] for package in layer},
}

NO_CLOCK = {"asyncio", "time", "random", "threading", "datetime", "secrets", "uuid"}
NO_NETWORK = {"socket", "ssl", "grpc", "hivemind", "http", "urllib", "starlette", "uvicorn"}
COMMAND_LINE = {"typer", "rich", "click"}

# Modules that no file of a package may import, not even inside a function.
BANNED_MODULES = {
    "core": {"torch", "numpy", "scipy", "safetensors", "tokenizers"} | NO_NETWORK | COMMAND_LINE,
    "proto": {"torch", "numpy"},
    "data": NO_NETWORK | COMMAND_LINE,
    "model": NO_NETWORK | COMMAND_LINE,
    "wire": {"google"} | NO_NETWORK | COMMAND_LINE,
    "steps": {"torch", "numpy", "scipy", "google"} | NO_CLOCK | NO_NETWORK | COMMAND_LINE,
    "plan": {"torch", "google"} | NO_CLOCK | NO_NETWORK | COMMAND_LINE,
    "monitor": {"torch", "grpc", "hivemind"} | COMMAND_LINE,
    "compute": NO_NETWORK | COMMAND_LINE,
    "transport": {"torch", "zstandard", "hivemind"} | COMMAND_LINE,
    "checkpoint": {"torch"} | NO_NETWORK | COMMAND_LINE,
    "swarm": {"torch"} | COMMAND_LINE,
    "outer": COMMAND_LINE,
    "recovery": COMMAND_LINE,
    "peer": COMMAND_LINE,
    "coordinator": {"torch"} | COMMAND_LINE,
    "experiments": COMMAND_LINE,
    # typer brings its own copy of click, so click need not be installed.
    "cli": {"click"},
}

# Modules that may be imported inside functions only: slow, or with side effects at import.
LAZY_ONLY = {"hivemind": None, "torch": {"cli"}, "datasets": None}

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.serialization.load",
    "numpy.load",
    "os.system",
    "os.popen",
}

CLOCK_EXEMPT = {"core/clock.py"}
REAL_CLOCK = {
    f"time.{name}{suffix}"
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time")
    for suffix in ("", "_ns")
} | {"time.sleep", "time.localtime", "time.gmtime", "time.strftime", "time.ctime"}
REAL_CLOCK |= {"datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"}
REAL_CLOCK |= {"datetime.date.today"}
GLOBAL_CHANCE_PREFIXES = ("random.", "numpy.random.", "secrets.", "uuid.uuid")
GLOBAL_CHANCE = {"os.urandom", "torch.manual_seed", "torch.seed", "torch.random.manual_seed"}
# A generator that is made from a seed and passed on is what rule I6 asks for.
SEEDED = {
    "random.Random",
    "numpy.random.default_rng",
    "numpy.random.Generator",
    "numpy.random.PCG64",
    "numpy.random.Philox",
    "numpy.random.SeedSequence",
}

FORBIDDEN_NAMES = {"utils", "util", "manager", "helper", "helpers", "misc", "common"}


def sources() -> list[str]:
    """Every source file but the generated ones, relative to the package."""
    paths = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return [path.as_posix() for path in paths if not path.name.endswith("_pb2.py")]


def package_of(source: str) -> str:
    """The package a file belongs to; the files of swarmtrain itself only start the command line."""
    return source.split("/")[0] if "/" in source else "cli"


@functools.cache
def tree_of(source: str) -> ast.Module:
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"), source)


def imports_of(tree: ast.AST, source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import below `tree`; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def eager_imports_of(node: ast.AST, source: str) -> Iterator[tuple[int, str]]:
    """Imports that run when the module is imported: not in functions, not under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from imports_of(child, source)
        else:
            yield from eager_imports_of(child, source)


def aliases_of(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: {"np": "numpy", "sleep": "time.sleep"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every name and attribute, with aliases resolved."""
    names = aliases_of(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        first, _, rest = ast.unparse(node).partition(".")
        # A dotted name that was not imported belongs to a local value, whatever it is called.
        if first in names:
            yield node.lineno, f"{names[first]}.{rest}" if rest else names[first]
        elif not rest:
            yield node.lineno, first


def import_findings(source: str, tree: ast.Module) -> Iterator[str]:
    """Imports against the table, up the layers, of banned modules, and eager where lazy is asked for."""
    package = package_of(source)
    allowed = MAY_IMPORT[package] | {package, "core"}
    for line, module in imports_of(tree, source):
        first, _, rest = module.partition(".")
        target = rest.split(".")[0]
        if first == "swarmtrain" and target in MAY_IMPORT and target not in allowed:
            yield f"{source}:{line}: {package} may not import swarmtrain.{target}"
        if first in BANNED_MODULES[package]:
            yield f"{source}:{line}: {package} may not import {module}"
        if first in UNSAFE_MODULES:
            yield f"{source}:{line}: {module} runs code from data"
    for line, module in eager_imports_of(tree, source):
        packages = LAZY_ONLY.get(module.split(".")[0], set())
        if packages is None or package in packages:
            yield f"{source}:{line}: import {module} inside a function"


def call_findings(source: str, tree: ast.Module) -> Iterator[str]:
    """Names that run code from data (I5), read the real clock or draw chance by themselves (I6)."""
    below_command_line = package_of(source) != "cli" and source not in CLOCK_EXEMPT
    for line, name in dotted_uses(tree):
        if name in UNSAFE_CALLS:
            yield f"{source}:{line}: {name} (I5)"
        if not below_command_line or name in SEEDED:
            continue
        if name in REAL_CLOCK:
            yield f"{source}:{line}: {name}: time is the running loop's (I6)"
        if name in GLOBAL_CHANCE or name.startswith(GLOBAL_CHANCE_PREFIXES):
            yield f"{source}:{line}: {name}: chance is passed in (I6)"


def size_findings(source: str, tree: ast.Module, lines: int) -> Iterator[str]:
    """Files, functions and parameter lists over budget; commands of the command line declare their options."""
    if lines > MAX_FILE_LINES:
        yield f"{source}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            yield f"{source}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
        names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
        count = len([name for name in names if name not in ("self", "cls")])
        # A command's parameters are its options.
        is_command = package_of(source) == "cli" and "typer.Option" in ast.unparse(node.args)
        if count > MAX_PARAMETERS and not is_command:
            yield f"{source}:{node.lineno}: {node.name} has {count} parameters, at most {MAX_PARAMETERS}"


def test_every_package_has_its_rules() -> None:
    packages = {package_of(source) for source in sources()}
    assert packages <= set(MAY_IMPORT) and set(MAY_IMPORT) == set(BANNED_MODULES)
    assert len(sources()) > 10


def test_the_table_itself_never_points_up_or_sideways() -> None:
    level = {package: index for index, layer in enumerate(LAYERS) for package in layer}
    assert set(level) == set(MAY_IMPORT)
    for package, others in MAY_IMPORT.items():
        for other in others - {package}:
            assert level[other] < level[package], f"{package} -> {other}"


@pytest.mark.parametrize("source", sources())
def test_imports(source: str) -> None:
    assert not list(import_findings(source, tree_of(source)))


@pytest.mark.parametrize("source", sources())
def test_no_code_from_data_no_clock_no_chance(source: str) -> None:
    assert not list(call_findings(source, tree_of(source)))


@pytest.mark.parametrize("source", sources())
def test_budgets(source: str) -> None:
    lines = len((PACKAGE / source).read_text(encoding="utf-8").splitlines())
    assert not list(size_findings(source, tree_of(source), lines))


def test_no_module_is_called_after_nothing() -> None:
    assert not [
        source for source in sources() if FORBIDDEN_NAMES & set(Path(source).with_suffix("").parts)
    ]


def test_layers_have_no_python_outside_the_package() -> None:
    assert not list((ROOT / "peers").rglob("*.py"))


# The checks themselves: each must find what it is for.

BAD_SOURCES = [
    ("steps/x.py", "import asyncio", "steps may not import asyncio"),
    ("steps/x.py", "def f():\n    from time import time", "steps may not import time.time"),
    ("plan/x.py", "import random", "plan may not import random"),
    ("core/x.py", "import torch.nn as nn", "core may not import torch.nn"),
    ("core/x.py", "from swarmtrain.wire import codecs", "core may not import swarmtrain.wire"),
    ("core/x.py", "from swarmtrain import wire", "core may not import swarmtrain.wire"),
    ("coordinator/x.py", "import swarmtrain.peer.worker", "coordinator may not import swarmtrain.peer"),
    ("transport/x.py", "import torch", "transport may not import torch"),
    ("cli/x.py", "import click", "cli may not import click"),
    ("cli/x.py", "if True:\n    import torch", "import torch inside a function"),
    ("swarm/x.py", "class A:\n    import hivemind", "import hivemind inside a function"),
    ("wire/x.py", "import pickle", "pickle runs code from data"),
    ("wire/x.py", "import torch as t\nt.load('x')", "torch.load (I5)"),
    ("peer/x.py", "eval('1')", "eval (I5)"),
    ("peer/x.py", "from time import monotonic as now\nnow()", "time.monotonic: time is"),
    ("peer/x.py", "import time\ntime.sleep(1)", "time.sleep: time is"),
    ("peer/x.py", "from datetime import datetime\ndatetime.now()", "datetime.datetime.now: time is"),
    ("compute/x.py", "import random\nrandom.random()", "random.random: chance is"),
    ("data/x.py", "import numpy as np\nnp.random.rand(3)", "numpy.random.rand: chance is"),
    ("model/x.py", "import torch\ntorch.manual_seed(1)", "torch.manual_seed: chance is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "text", "finding"), BAD_SOURCES, ids=[bad[1] for bad in BAD_SOURCES]
)
def test_bad_sources_are_found(source: str, text: str, finding: str) -> None:
    tree = ast.parse(text)
    found = [*import_findings(source, tree), *call_findings(source, tree)]
    assert any(finding in entry for entry in found), found


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "peer/x.py",
            "import random\ndef f(r: random.Random): r.random(); model.eval(); store.load()",
        ),
        ("peer/x.py", "def f(random): return random.random()"),
        ("data/x.py", "import numpy as np\nnp.random.default_rng(3)"),
        ("swarm/x.py", "def f():\n    import hivemind"),
        ("cli/x.py", "import time\ntime.time()\ndef f():\n    import torch"),
        ("core/clock.py", "import time\ntime.monotonic()"),
        (
            "experiments/x.py",
            "from swarmtrain.peer import worker\nfrom swarmtrain.coordinator import state",
        ),
        ("cli/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_good_sources_pass(source: str, text: str) -> None:
    tree = ast.parse(text)
    assert not [*import_findings(source, tree), *call_findings(source, tree)]


def test_budgets_are_noticed() -> None:
    text = "def long(a, b, c, d, e, f, g):\n" + "    a\n" * MAX_FUNCTION_LINES
    found = list(size_findings("peer/x.py", ast.parse(text), MAX_FILE_LINES + 1))
    assert len(found) == 3
    method = "class A:\n    def fits(self, a, b, c, d, e, f, *, g): pass\n"
    command = "def up(a: Annotated[int, typer.Option()], b, c, d, e, f, g): pass\n"
    assert not list(size_findings("peer/x.py", ast.parse(method), 2))
    assert not list(size_findings("cli/x.py", ast.parse(command), 2))


# The command line


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['swarmtrain', '--help']\n"
        "try: runpy.run_module('swarmtrain', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('HEAVY', sorted({'torch', 'hivemind', 'grpc', 'numpy'} & set(sys.modules)))"
    )
    outcome = _python("-c", code)
    assert outcome.returncode == 0, outcome.stderr
    assert "HEAVY []" in outcome.stdout, outcome.stdout[-200:]


def test_help_answers_within_half_a_second() -> None:
    # Processor time, which other work on the machine does not lengthen; the command waits for nothing.
    seconds = []
    for _ in range(3):
        before = os.times()
        outcome = _python("-m", "swarmtrain", "--help")
        after = os.times()
        used = after.children_user + after.children_system
        seconds.append(used - before.children_user - before.children_system)
        assert outcome.returncode == 0, outcome.stderr
        assert "swarmtrain" in outcome.stdout
    assert min(seconds) < 0.5, seconds
