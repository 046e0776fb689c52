"""`vector-sync serve`: syncs, for months; and `vector-sync probe`, which asks how it does."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import os
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import click

from . import terminal
from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PROBES: Final = ("livez", "readyz", "startupz")
PROBE_SECONDS: Final = 5.0
MAX_TOLD_BYTES: Final = 10_000


@click.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Sync again and again, and tell how it goes by HTTP, until stopped.

    By the settings file of --config and its [service]; if --config names a folder, each settings file in it is a sync.
    The log goes to stderr, in JSON. SIGTERM ends it in order, SIGHUP reads the settings again.
    """
    import gc

    gc.set_threshold(20_000, 50, 100)  # as `sync` does
    try:
        from .service.server import serve as serve_until_stopped
    except ImportError as error:
        if (error.name or "").startswith("connector"):
            raise
        raise ConfigError(f'the service needs {error.name}: pip install "vector-sync[service]"') from None
    path: Path = ctx.obj
    if not serve_until_stopped(path, listening=lambda url: click.echo(f"serving {url}")):
        sys.stdout.flush()
        os._exit(0)  # a thread is in a call that nothing ends; what it was for is put right by the next start


@click.command()
@click.argument("what", type=click.Choice(PROBES), default="livez")
@click.pass_context
def probe(ctx: click.Context, what: str) -> None:
    """Ask the service that the settings name how it does: exit code 0 if it is well, else 1.

    For HEALTHCHECK of a container, and for exec probes.
    """
    from http.client import HTTPConnection, HTTPException  # a probe comes every few seconds: no more than it needs

    from .service_config import load_service_settings

    settings = load_service_settings(ctx.obj)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared with
    connection = HTTPConnection(host, settings.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", f"/{what}")
        answer = connection.getresponse()
        told = answer.read(MAX_TOLD_BYTES).decode(errors="replace")
    except (OSError, HTTPException) as error:
        terminal.complain(f"{host} does not answer at port {settings.port}: {type(error).__name__}")
        ctx.exit(1)
    finally:
        connection.close()
    terminal.say(terminal.printable(told.strip()))
    ctx.exit(0 if answer.status == HTTPStatus.OK else 1)
