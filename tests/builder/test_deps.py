"""Requirements: what may be asked for, how failures read, what is installed. From a folder of wheels, offline."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import deps, elf, libraries
from builder.layers import StoredLayer
from builder.processes import Processes
from builder.runtimes.python import stdlib
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout
from jiffy.contract.errors import BuildFailed
from tests.builder.archives import wheel

Environment = Callable[[], dict[str, str]]


def asked(folder: Path, name: str, text: str) -> tuple[str, ...]:
    (folder / name).write_text(text)
    return deps.requirements(folder)


def test_a_requirements_file_is_read_without_its_comments(tmp_path: Path) -> None:
    text = (
        "\ufeff# what we need\npillow>=10,<13  # images\n\nhttpx[http2] ; python_version >= '3.8'\nidna \\\n  ==3.7\n"
    )
    assert asked(tmp_path, "requirements.txt", text) == (
        "pillow>=10,<13",
        "httpx[http2] ; python_version >= '3.8'",
        "idna    ==3.7",
    )


def test_hashes_pass(tmp_path: Path) -> None:
    line = f"idna==3.7 --hash=sha256:{'a' * 64}"
    assert asked(tmp_path, "requirements.txt", line) == (line,)


def test_pyproject_s_dependencies_stand_in(tmp_path: Path) -> None:
    text = '[project]\nname = "x"\ndependencies = ["idna", "requests>=2"]\n'
    assert asked(tmp_path, "pyproject.toml", text) == ("idna", "requests>=2")
    assert asked(tmp_path, "requirements.txt", "click") == ("click",)


def test_nothing_asked_for_is_nothing(tmp_path: Path) -> None:
    assert deps.requirements(tmp_path) == ()
    assert asked(tmp_path, "pyproject.toml", "[tool.black]\n") == ()
    assert asked(tmp_path, "requirements.txt", "# nothing\n\n") == ()


REFUSED = {
    "-e .": "is an option",
    "--index-url https://evil.example/simple": "is an option",
    "--extra-index-url=https://evil.example": "is an option",
    "-f ./wheels": "is an option",
    "-r more.txt": "is an option",
    "idna --global-option=x": "no requirement",
    "./local": "is a path",
    "/etc": "is a path",
    "../up": "is a path",
    "pkg/sub": "is a path",
    "thing.whl": "is a path",
    "thing-1.0.tar.gz": "is a path",
    "https://evil.example/x.whl": "URL or a repository",
    "git+https://evil.example/x.git": "URL or a repository",
    "x @ file:///etc": "URL or a repository",
    "x@https://evil.example/x.whl": "URL or a repository",
    "file:///etc/passwd": "URL or a repository",
    "one two": "no requirement",
    "$HOME": "no requirement",
    "_x": "no requirement",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_points_elsewhere_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=f"^requirements.txt, line 2: .*{REFUSED[line]}"):
        asked(tmp_path, "requirements.txt", f"idna\n{line}\n")


SLOW = (
    "a" + "!" * 70 + "?",
    "a" + ">=" * 70 + "?",
    "a" + ">=1," * 70 + "?",
    "a" + " " * 900 + "?",
    "a[" + " " * 900 + "?",
)


@pytest.mark.timeout(20)  # matched the wrong way, the first alone takes longer than the universe is old
@pytest.mark.parametrize("line", SLOW)
def test_a_line_made_to_be_slow_is_refused_like_any_other(line: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="no requirement"):
        asked(tmp_path, "requirements.txt", line)


def test_a_line_has_a_bound_and_its_hashes_are_not_counted(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="longer than 1024 characters"):
        asked(tmp_path, "requirements.txt", "a" * 1025)
    locked = "idna==3.7" + f" --hash=sha256:{'a' * 64}" * 40
    assert asked(tmp_path, "requirements.txt", locked) == (locked,)


@pytest.mark.parametrize("line", ["a>=1,<2", "a (>=1, <2)", "a===1", "a ~= 1.4.2 ; extra", "a>=1,", "a!=1.*,>=0"])
def test_every_way_to_write_versions_passes(line: str, tmp_path: Path) -> None:
    assert asked(tmp_path, "requirements.txt", line) == (line,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[project", "not valid TOML"),
        ("project = 1", "must be a table"),
        ('[project]\ndependencies = "x"', "must be a list of strings"),
        ('[project]\ndynamic = ["dependencies"]', "are dynamic"),
        ("a." * 60_000 + "a = 1", "more than"),
        ('[project]\ndependencies = ["x @ git+ssh://y"]', "URL or a repository"),
    ],
)
def test_a_pyproject_that_can_t_be_used_says_why(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=f"^pyproject.toml.*{told}"):
        asked(tmp_path, "pyproject.toml", text)


def test_the_layer_s_key_follows_text_and_runtime_not_order(python: Interpreter) -> None:
    assert deps.key(("a", "b"), python) == deps.key(("b", "a"), python)
    assert deps.key(("a", "b"), python) != deps.key(("a", "b>1"), python)


class Installation:
    """Installs into `folder` and keeps what was said."""

    def __init__(
        self, folder: Path, based: tuple[Path, StoredLayer], python: Interpreter, environ: dict[str, str]
    ) -> None:
        self.folder, self.said = folder / "deps", list[str]()
        self._based, self._python, self._environ = based, python, environ

    def run(self, *lines: str) -> Path:
        self.folder.parent.mkdir(exist_ok=True)
        deps.install(
            lines,
            self.folder,
            python=self._python,
            cache=self.folder.parent / "cache",
            base=layout.layer_tree(self._based[0], self._based[1].layer.digest),
            say=self.said.append,
            environ=self._environ,
            processes=Processes(),
        )
        return self.folder


@pytest.fixture
def installation(
    tmp_path: Path, based: tuple[Path, StoredLayer], python: Interpreter, offline: Environment
) -> Installation:
    return Installation(tmp_path / "work", based, python, offline())


def test_packages_arrive_compiled_and_progress_is_told(
    installation: Installation, wheels: Path, python: Interpreter
) -> None:
    wheel(wheels, "greeter", {"greeter/__init__.py": b"def hi(): ...\n", "greeter/x.pyi": b""})
    folder = installation.run("greeter")
    assert (folder / "greeter/__init__.py").is_file()
    assert (folder / f"greeter/__pycache__/__init__.{python.cache_tag}.pyc").is_file()
    assert (folder / "greeter-1.0.dist-info/METADATA").is_file()
    assert "+ greeter==1.0" in installation.said


def test_an_unknown_package_fails_with_the_resolver_s_reason(installation: Installation) -> None:
    with pytest.raises(BuildFailed, match=r"^dependencies: No solution found.*greetr was not found") as caught:
        installation.run("greetr")
    assert "\n" not in caught.value.message


def test_versions_that_contradict_fail_with_the_resolver_s_reason(installation: Installation, wheels: Path) -> None:
    wheel(wheels, "greeter", {"greeter.py": b""})
    with pytest.raises(BuildFailed, match="greeter>=2"):
        installation.run("greeter>=2")


def test_a_package_s_code_is_not_run(installation: Installation, wheels: Path, tmp_path: Path) -> None:
    source = wheels / "evil-1.0.tar.gz"
    source.write_bytes(b"")  # only a wheel would do
    with pytest.raises(BuildFailed, match=r"^dependencies: .*evil"):
        installation.run("evil")


def test_a_library_that_nobody_has_is_named(installation: Installation, wheels: Path, python: Interpreter) -> None:
    content, library = an_extension(python)
    name = f"native/_x.{python.cache_tag}-x86_64-linux-gnu.so"
    other = library.replace(b"lib", b"no_", 1)
    wheel(wheels, "native", {"native/__init__.py": b"", name: content.replace(library + b"\0", other + b"\0")})
    with pytest.raises(BuildFailed, match=rf"^dependencies: native/_x\..* needs {re.escape(other.decode())}"):
        installation.run("native")
    wheel(wheels, "fine", {"fine/__init__.py": b"", name.replace("native", "fine"): content})
    assert Installation(wheels / "second", installation._based, python, installation._environ).run("fine").is_dir()


def test_a_library_of_the_system_comes_along_only_when_something_needs_it(
    installation: Installation, wheels: Path, python: Interpreter, tmp_path: Path
) -> None:
    """libstdc++ is two megabytes that most functions have no use for."""
    content, library = an_extension(python, longer_than=len("libstdc++.so.6"))
    needy = content.replace(library + b"\0", b"libstdc++.so.6".ljust(len(library), b"\0") + b"\0")
    wheel(wheels, "plain", {"plain.py": b""})
    wheel(wheels, "native", {f"native/_x.{python.cache_tag}-x86_64-linux-gnu.so": needy})
    folder = installation.run("native")
    assert (folder / ".lib/libstdc++.so.6").is_file()
    root = layout.layer_tree(installation._based[0], installation._based[1].layer.digest)
    (link,) = [path for path in root.rglob("*") if path.name == "libstdc++.so.6"]
    assert str(link.readlink()) == f"{libraries.FOLDER}/libstdc++.so.6"
    another = Installation(tmp_path / "other", installation._based, python, installation._environ)
    assert not (another.run("plain") / ".lib").exists()
    (tmp_path / "vendored.so").write_bytes(needy)
    assert libraries.needs([tmp_path / "vendored.so"], root) == ("libstdc++.so.6",)
    assert libraries.needs(libraries.native(folder), root) == ()


def an_extension(python: Interpreter, longer_than: int = 0) -> tuple[bytes, bytes]:
    """An extension module of the interpreter, and a library it needs whose name stands in it in full."""
    for path in stdlib.extensions(python):
        found, content = elf.read(path), path.read_bytes()
        for library in found.needed if found else ():
            if len(library) >= longer_than and b"\0" + library.encode() + b"\0" in content:
                return content, library.encode()
    raise AssertionError(f"{python.dynload} has no extension module that needs a library")


def test_nothing_of_the_builder_s_environment_but_the_network_reaches_the_resolver(tmp_path: Path) -> None:
    given = {
        "SECRET": "x",
        "JIFFY_API_KEY": "x",
        "LD_PRELOAD": "x",
        "PYTHONPATH": "x",
        "UV_TARGET": "/",
        "UV_INDEX": "https://index.example",
        "PIP_INDEX_URL": "https://mirror.example",
        "HTTPS_PROXY": "http://proxy.example",
        "SSL_CERT_FILE": "/ca.pem",
    }
    env = deps.resolver_environment(given, tmp_path)
    assert set(env) == {"HOME", "PATH", "LC_ALL", "UV_INDEX", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "SSL_CERT_FILE"}
    assert env["UV_DEFAULT_INDEX"] == "https://mirror.example"
