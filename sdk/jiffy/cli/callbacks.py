"""`jiffy callback-secret`: what `on_success` and `on_failure` callbacks are signed with."""

from __future__ import annotations

import click

from jiffy.client import Client

from .screen import json_option, show_json


@click.command("callback-secret", short_help="Show what callbacks are signed with.")
@json_option
def callback_secret(as_json: bool) -> None:
    """Show the secret by which receivers of callbacks verify their signature (Standard Webhooks).

    \b
    Example:
      jiffy callback-secret
    """
    with Client() as client:
        found = client.get_json("/v1/callback-secret")
    show_json(found) if as_json else click.echo(found["secret"])
