"""What was accepted and is hardly meant, such as a name that nobody has: told on stderr, after it was done.

No errors, since what is missing may come later. A platform that does not answer such a question spoils nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from jiffy.client import Client
from jiffy.contract.errors import JiffyError
from jiffy.contract.spec import FunctionSpec

FUNCTION = "function:"


def warn_of_functions(client: Client, specs: Sequence[FunctionSpec]) -> None:
    """All that can be said of functions that were deployed."""
    if names := [one.name for one in specs if one.network]:
        _warn_of_no_network(client, names)
    _warn_of_nobody(client, specs)
    _warn_of_aliases(client, specs)


def warn_of_names(client: Client, names: Iterable[str], what: str) -> None:
    """`names` of functions that `what` ("the budget x") names; whether they are there."""
    wanted = sorted(set(names))
    for name in _missing(client, wanted) if wanted else ():
        _warn(f"{what} names the function {name}, and there is no function {name} yet")


def _warn_of_no_network(client: Client, names: list[str]) -> None:
    try:
        hosts = client.status()["invokers"]
    except JiffyError:
        return
    if hosts and not any(host["network"] for host in hosts):
        has = f"{names[0]} has" if len(names) == 1 else f"{', '.join(names)} have"
        _warn(
            f"{has} network = true, and no host here can give it one, so calls will be refused: only "
            "Docker's sandboxes have a network (jiffy up --sandbox docker)"
        )


def _warn_of_nobody(client: Client, specs: Sequence[FunctionSpec]) -> None:
    targets = {(one.name, to) for one in specs for to in (one.on_success, one.on_failure) if to.startswith(FUNCTION)}
    missing = _missing(client, [to.removeprefix(FUNCTION) for _, to in targets]) if targets else []
    for function, target in sorted(targets):
        if (name := target.removeprefix(FUNCTION)) in missing:
            text = f"{function} names the destination {target}, and there is no function {name} yet"
            _warn(f"{text}: what it is told waits for it, at most a day")


def _warn_of_aliases(client: Client, specs: Sequence[FunctionSpec]) -> None:
    for one in specs:
        named = {trigger["alias"] for trigger in one.triggers if trigger.get("alias")}
        try:
            found = client.get_json(f"/v1/functions/{one.name}/aliases")["aliases"] if named else []
        except JiffyError:
            continue
        for alias in sorted(named - {known["alias"] for known in found}):
            text = f"{one.name} has an http trigger with alias = {alias!r}, and no such alias yet"
            _warn(f"{text}: its requests are 404 until `jiffy alias set {one.name} {alias}=1` or the like")


def _missing(client: Client, names: Sequence[str]) -> list[str]:
    """Those that are no function of the platform."""
    try:
        known = {one["name"] for one in client.functions()}
    except JiffyError:
        return []
    return [name for name in names if name not in known]


def _warn(text: str) -> None:
    click.echo(f"jiffy: warning: {text}", err=True)
