"""The design's rules about who may import whom, held over the source itself."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
GENERATED: Final = ("extproc.wire", "ledger.wire")
WIRING: Final = ("settings", "__main__", "worker", "demo", "cli.up")
VAGUE: Final = frozenset(("utils", "helpers", "common", "manager", "base"))
PURE: Final = (
    "extproc.events",
    "extproc.agents",
    "extproc.exchange",
    "extproc.identity",
    "extproc.chain",
    "extproc.providers",
    "extproc.sse",
    "extproc.eventstream",
    "extproc.jsonarray",
    "extproc.inflate",
    "extproc.estimate",
    "extproc.budget",
    "extproc.hold",
    "extproc.meter",
    "extproc.policy",
    "extproc.reading",
    "extproc.refusal",
    "extproc.form",
    "ledger.money",
    "ledger.event",
    "ledger.prices",
    "ledger.budgets",
    "ledger.alerts",
    "ledger.keyspace",
    "ledger.reports",
    "ledger.reconcile",
    "ledger.statements",
    "ledger.journal",
    "ledger.invoices",
    "ledger.patterns",
    "ledger.balances",
    "ledger.explain",
    "ledger.plans",
    "ledger.cli.arguments",
    "ledger.key_files",
    "ledger.label_text",
    "ledger.run_trees",
    "ledger.chains",
    "extproc.signals",
    "extproc.own_api",
    "ledger.sharing",
    "ledger.shared_context",
)
SIDECAR_MAY_IMPORT: Final = (
    "ledger.money",
    "ledger.event",
    "ledger.prices",
    "ledger.price_list",
    "ledger.budgets",
    "ledger.keyspace",
    "ledger.label_text",
    "ledger.chains",
)
# I/O, clocks and randomness: what a pure module takes as an argument instead.
WORLD: Final = (
    *(
        "asyncio",
        "concurrent",
        "fcntl",
        "glob",
        "grpc",
        "hiredis",
        "http",
        "httpx",
        "io",
        "logging",
    ),
    *("multiprocessing", "os", "pathlib", "psycopg", "psycopg_pool", "queue", "random", "redis"),
    *("sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl"),
    *("subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid", "uvloop"),
    "yaml",
)
WORLDLY_CALLS: Final = frozenset(
    ("open", "print", "input", "datetime.now", "datetime.utcnow", "datetime.today", "date.today")
)


def sources(*folders: str) -> dict[str, Path]:
    """The modules under these folders by dotted name, without generated code."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    found = {name_of(path): path for path in paths}
    return {name: path for name, path in found.items() if not within(name, GENERATED)}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(name: str, path: Path) -> Iterator[str]:
    """The dotted names of all modules that one imports, also inside its functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                depth = node.level - (path.name == "__init__.py")
                parents = name.split(".")[: -depth or None]
                origin = ".".join([*parents, node.module] if node.module else parents)
            submodules = [f"{origin}.{alias.name}" for alias in node.names]
            known = [submodule for submodule in submodules if submodule in OURS]
            yield from known
            if len(known) < len(submodules):
                yield origin


OURS: Final = sources("extproc", "ledger")
SIDECAR: Final = {name: path for name, path in OURS.items() if within(name, ["extproc"])}
LEDGER: Final = {name: path for name, path in OURS.items() if within(name, ["ledger"])}
PURE_MODULES: Final = {name: path for name, path in OURS.items() if within(name, PURE)}
EVERYTHING: Final = OURS | sources("tests")


@pytest.mark.parametrize("name", PURE_MODULES)
def test_pure_modules_do_not_touch_the_world(name: str) -> None:
    """No I/O, no clock and no randomness: neither imported nor called."""
    path = PURE_MODULES[name]
    imported = [module for module in imports_of(name, path) if within(module, WORLD)]
    assert imported == [], f"{name} is pure: take what these give as an argument."
    called = [
        ast.unparse(node.func)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WORLDLY_CALLS
    ]
    assert called == [], f"{name} is pure: take the result of these as an argument."


@pytest.mark.parametrize("name", PURE_MODULES)
def test_pure_modules_import_only_pure_ones_of_ours(name: str) -> None:
    """Purity is not lent: an edge imports pure modules, never the other way round."""
    edges = [
        module
        for module in imports_of(name, PURE_MODULES[name])
        if within(module, ("extproc", "ledger")) and not within(module, (*PURE, *GENERATED))
    ]
    assert edges == []


@pytest.mark.parametrize("name", SIDECAR)
def test_the_sidecar_uses_only_the_shared_modules_of_the_ledger(name: str) -> None:
    """The request path can never depend on PostgreSQL, the CLI or the writer."""
    modules = [module for module in imports_of(name, SIDECAR[name]) if within(module, ["ledger"])]
    assert [module for module in modules if not within(module, SIDECAR_MAY_IMPORT)] == []


@pytest.mark.parametrize("name", LEDGER)
def test_the_ledger_never_imports_the_sidecar(name: str) -> None:
    """It starts the sidecar as a process."""
    imported = imports_of(name, LEDGER[name])
    assert [module for module in imported if within(module, ["extproc"])] == []


@pytest.mark.parametrize("name", OURS)
def test_only_wiring_imports_wiring(name: str) -> None:
    """Settings and start-up know everything, and nothing knows them."""
    if name.partition(".")[2] in WIRING:
        return
    wiring = [f"{package}.{module}" for package in ("extproc", "ledger") for module in WIRING]
    imported = [module for module in imports_of(name, OURS[name]) if within(module, wiring)]
    assert imported == [], f"{name} is no wiring: take single values as arguments instead."


@pytest.mark.parametrize("name", OURS)
def test_envoys_independent_implementation_stays_in_the_tests(name: str) -> None:
    """It takes more than a second to import and 60 times as long to decode a message."""
    imported = imports_of(name, OURS[name])
    assert [module for module in imported if within(module, ["envoy_data_plane"])] == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_module_says_its_job(name: str) -> None:
    """The first line of a module is a docstring; an empty `__init__.py` has no job to say."""
    tree = tree_of(EVERYTHING[name])
    assert not tree.body or (ast.get_docstring(tree) or "").strip()


def test_no_module_has_a_vague_name() -> None:
    """A file is named after what it does."""
    assert [name for name in EVERYTHING if VAGUE & set(name.split("."))] == []


def test_every_test_folder_is_a_package() -> None:
    """Two test modules of the same name in different folders do not collide."""
    folders = {path.parent for path in sources("tests").values()}
    folders |= {
        folder
        for folder in (ROOT / "tests").rglob("*")
        if folder.is_dir() and "__pycache__" not in folder.parts
    }
    data = ROOT / "tests" / "data"
    packages = [folder for folder in folders if folder != data and data not in folder.parents]
    assert [folder for folder in packages if not (folder / "__init__.py").exists()] == []


def test_folders_that_share_a_package_name_hold_no_python() -> None:
    """`envoy` and `proto` are import names of other packages."""
    assert [*(ROOT / "envoy").rglob("*.py"), *(ROOT / "proto").rglob("*.py")] == []


def test_relative_and_nested_imports_are_seen(tmp_path: Path) -> None:
    """The checker itself: imports inside functions, of submodules, and relative ones count."""
    source = tmp_path / "probe.py"
    source.write_text(
        "from ledger import money\nfrom . import keyspace, nothing\n"
        "def f():\n    import os.path\n    from ..extproc.refusal import Refusal\n"
    )
    assert list(imports_of("ledger.probe", source)) == [
        "ledger.money",
        "ledger.keyspace",
        "ledger",
        "os.path",
        "extproc.refusal",
    ]
