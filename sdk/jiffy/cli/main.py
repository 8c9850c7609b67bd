"""`jiffy`: the list of commands. Each is imported when it is used, so `jiffy --help` stays instant.

Every command speaks through `jiffy.client` alone. An error is one line on stderr and exit code 1; a function that
failed is exit code 1 too; wrong use is 2.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import click

from jiffy import __version__
from jiffy.contract.errors import JiffyError

from .screen import say


class Entry(NamedTuple):
    """Where a command lives and what `jiffy --help` says of it."""

    module: str
    summary: str


COMMANDS = {
    "up": Entry("up", "Start a platform on this machine."),
    "init": Entry("init", "Write a first function to start from."),
    "deploy": Entry("deploy", "Build a folder's functions and put them in service."),
    "build": Entry("build", "Make images of a folder's functions, without a platform."),
    "image": Entry("image", "Show what is inside a function's image, and why."),
    "push": Entry("push", "Push a function's image to a registry."),
    "prune": Entry("prune", "Remove old revisions, and layers that nothing needs."),
    "invoke": Entry("invoke", "Call a function and print its result."),
    "result": Entry("invocations", "Show what became of an asynchronous call."),
    "cancel": Entry("invocations", "Take back a queued call."),
    "callback-secret": Entry("callbacks", "Show what callbacks are signed with."),
    "audit": Entry("audit", "Count every total anew and say whether the books balance."),
    "dlq": Entry("dlq", "Look at calls that failed for good; replay or purge them."),
    "list": Entry("functions", "List your functions."),
    "show": Entry("functions", "Show one function: revisions, layers, routes."),
    "rollback": Entry("rollback", "Put an earlier revision back in service."),
    "alias": Entry("alias", "Name revisions, and share calls among them."),
    "logs": Entry("logs", "Show what a function printed."),
    "budget": Entry("budget", "Say what calls may cost, and see what is spent."),
    "quota": Entry("quota", "Say how many calls may come."),
    "bill": Entry("bill", "Show what calls cost."),
    "cost": Entry("cost", "Estimate what calls will cost."),
    "prices": Entry("prices", "Show and publish what calls cost."),
    "drain": Entry("drain", "Have a host take no further calls."),
    "status": Entry("status", "Show how the platform is doing."),
    "keys": Entry("keys", "Make API keys for tenants, and take them back."),
    "topics": Entry("topics", "Publish events, and see what topics hold."),
    "triggers": Entry("triggers", "What calls functions besides requests."),
    "remove": Entry("functions", "Remove a function."),
}
ATTRIBUTES = {  # where the command's name is no name in Python, or a taken one
    "list": "list_functions",
    "callback-secret": "callback_secret",
}
LOCAL = ("up", "init", "keys")  # speak to no platform


def _use_url(_: click.Context, __: click.Parameter, url: str | None) -> None:
    if url:
        os.environ["JIFFY_URL"] = url  # where every client of this process looks


def _url_option() -> click.Option:
    return click.Option(
        ["--url"], metavar="URL", expose_value=False, callback=_use_url, help="Where the platform is (or: JIFFY_URL)."
    )


class Commands(click.Group):
    """A group whose commands are imported on use, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name].module}")
        command = getattr(module, ATTRIBUTES.get(cmd_name, cmd_name))
        assert isinstance(command, click.Command)
        if cmd_name not in LOCAL and all(parameter.name != "url" for parameter in command.params):
            command.params.append(_url_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except JiffyError as exc:
            say(f"jiffy: {exc.message}", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jiffy", message="%(prog)s %(version)s")
@click.option("--url", metavar="URL", expose_value=False, callback=_use_url, help="Where the platform is.")
def main() -> None:
    """Jiffy runs your functions: isolated, scaled, metered.

    \b
    Start here:
      jiffy up              in one terminal
      jiffy init hello      in another
      jiffy deploy hello
      jiffy invoke hello

    \b
    Environment:
      JIFFY_URL      where the platform is (default http://127.0.0.1:8080); or --url
      JIFFY_API_KEY  the key it asks for, if it does
    """


if __name__ == "__main__":
    main()
