"""The command line as a user meets it, where no platform runs: help, exit codes, one clear line."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from jiffy.cli import main as cli
from jiffy.contract import spec
from jiffy.listener import listen


def jiffy(*words: str, cwd: Path | None = None, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    with listen("127.0.0.1", 0) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JIFFY_")} | {"JIFFY_URL": nobody} | env
    command = [sys.executable, "-P", "-c", "from jiffy.cli.main import main; main(prog_name='jiffy')", *words]
    return subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True)


def commands() -> list[click.Command]:
    group = cli.main
    assert isinstance(group, cli.Commands)
    found = [group.get_command(click.Context(group), name) for name in cli.COMMANDS]
    return [command for command in found if command]


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    assert [(c.name, c.get_short_help_str(limit=200)) for c in commands()] == [
        (name, entry.summary) for name, entry in cli.COMMANDS.items()
    ]


@pytest.mark.parametrize("command", commands(), ids=lambda command: str(command.name))
def test_every_command_has_an_example_and_speaks_json(command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=f"jiffy {command.name}"))
    assert "Example" in text and f"jiffy {command.name}" in text
    for leaf in command.commands.values() if isinstance(command, click.Group) else (command,):
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert "--json" in options or "--format" in options or leaf.name in ("up", "init")
        assert all(p.help for p in leaf.params if isinstance(p, click.Option)), "an option without help"


def test_help_loads_no_command() -> None:
    """So that it stays instant."""
    code = "import sys, jiffy.cli.main as cli; cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert not loaded & {"httpx", "rich", "redis", "asyncio", "pathspec", "jiffy.client", "jiffy.cli.deploy"}


def test_wrong_use_is_exit_code_2() -> None:
    for words in (["nonsense"], ["invoke"], ["up", "--port", "many"], ["invoke", "hello", "{}", "--wait"]):
        done = jiffy(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert done.stderr.startswith("Usage: jiffy")


def test_no_platform_is_one_line_and_exit_code_1() -> None:
    for words in (["list"], ["show", "hello"], ["invoke", "hello"], ["logs", "hello"], ["status"], ["bill"]):
        done = jiffy(*words)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.count("\n") == 1 and "start one with `jiffy up`, or set JIFFY_URL" in done.stderr


def test_where_the_platform_is_can_be_said_in_three_ways() -> None:
    for words in (["--url", "http://127.0.0.1:1", "list"], ["list", "--url", "http://127.0.0.1:1"]):
        assert "no platform answers at http://127.0.0.1:1:" in jiffy(*words).stderr, words
    done = jiffy("list", JIFFY_URL="foo")
    assert done.returncode == 1
    assert done.stderr == "jiffy: 'foo' is not the URL of a platform, such as http://127.0.0.1:8080; see JIFFY_URL\n"


def test_a_name_that_is_none() -> None:
    done = jiffy("show", "../x")
    assert done.returncode == 1 and "can't name a function" in done.stderr


@pytest.mark.parametrize("data", ["{", "@missing.json", "text", "NaN!"])
def test_data_that_is_no_json_is_wrong_use(data: str, tmp_path: Path) -> None:
    done = jiffy("invoke", "hello", data, cwd=tmp_path)
    assert done.returncode == 2 and "Error: " in done.stderr


def test_stdin_that_is_no_json_is_wrong_use() -> None:
    assert jiffy("invoke", "hello", "-", stdin="{").returncode == 2


@pytest.mark.parametrize(
    ("folder", "name", "module"),
    [
        ("hello", "hello", "hello"),
        ("My App_2", "my-app-2", "my_app_2"),
        ("3d/json", "json", "app"),  # its own json.py would hide Python's
        ("1 über", "ber", "ber"),
        ("...", "hello", "hello"),
    ],
)
def test_init_writes_a_function_that_is_valid_and_works(
    folder: str, name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = jiffy("init", folder, cwd=tmp_path)
    wrote = f"wrote jiffy.toml, {module}.py, .jiffyignore; now: jiffy deploy {shlex.quote(folder)}\n"
    assert (done.returncode, done.stdout) == (0, wrote)
    text = (tmp_path / folder / "jiffy.toml").read_text()
    (one,) = spec.parse_toml(text)
    assert (one.name, one.handler, one.routes) == (name, f"{module}:handler", (f"GET /{name}/{{name}}",))
    assert all(f"{key} = " in text for key in spec.KEYS)
    assert spec.parse_toml(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)) == (one,)  # the defaults are true
    monkeypatch.syspath_prepend(str(tmp_path / folder))
    handler = importlib.import_module(module).handler
    sys.modules.pop(module)
    assert handler({"name": "Ada"}, None) == {"message": "Hello, Ada!"}
    assert handler({"pathParameters": {"name": "Grace"}}, None) == {"message": "Hello, Grace!"}
    assert handler({"rawPath": "/"}, None) == {"message": "Hello, world!"}


def test_init_writes_one_in_another_language(tmp_path: Path) -> None:
    done = jiffy("init", "my-app", "--runtime", "nodejs", cwd=tmp_path)
    assert done.stdout == "wrote jiffy.toml, my_app.mjs, .jiffyignore; now: jiffy deploy my-app\n"
    (one,) = spec.parse_toml((tmp_path / "my-app/jiffy.toml").read_text())
    assert (one.name, one.handler, one.runtime) == ("my-app", "my_app:handler", "nodejs")


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "jiffy.toml").write_text("mine")
    done = jiffy("init", cwd=tmp_path)
    assert done.returncode == 1 and "jiffy.toml exists already; nothing was written" in done.stderr
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("jiffy.toml", "mine")]


def test_a_mistake_in_jiffy_toml_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "jiffy.toml").write_text('[functions.hello]\nhandler = "hello:handler"\nmemory = 128\n')
    done = jiffy("deploy", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"jiffy: {tmp_path}/jiffy.toml: [functions.hello]: unknown key 'memory'")
    assert "did you mean 'memory_mb'?" in done.stderr


def test_up_refuses_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = ["--data", str(tmp_path / "data"), "--port", "0"]
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        refusals = [
            (["--data", str(tmp_path / "file")], "as data folder"),
            (["--data", str(tmp_path / "data"), "--port", port], f"port {port} on 127.0.0.1 is in use"),
            ([*data, "--redis", "redis://:secret@127.0.0.1:1/0"], "can't reach Redis at redis://:…@127.0.0.1:1/0"),
            ([*data, "--redis", "127.0.0.1:6379"], "not the URL of a Redis"),
            ([*data, "--host", "0.0.0.0"], "set JIFFY_API_KEY"),
        ]
        for words, part in refusals:
            done = jiffy("up", *words)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("jiffy: ") and part in done.stderr, words
            assert "secret" not in done.stderr


def test_json_of_a_command_that_fails_leaves_stdout_empty() -> None:
    done = jiffy("list", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.stdout)


def test_an_image_that_another_data_folder_has(tmp_path: Path) -> None:
    done = jiffy("image", "hello", XDG_DATA_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"jiffy: {tmp_path}/jiffy has no image of function 'hello'; if its platform has another data folder, name that "
        "with --data\n"
    )
