"""The `swarmtrain` command. Modules here import the rest of the package inside functions, so that help is quick."""

import logging
import os
import sys
from typing import Annotated

import typer

from swarmtrain.cli import (
    bench,
    config,
    doctor,
    experiment,
    export,
    model,
    plan,
    run,
    status,
    terms,
)
from swarmtrain.core.errors import SwarmError
from swarmtrain.core.version import VERSION

app = typer.Typer(
    name="swarmtrain",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train one language model on machines that differ, sit far apart, and come and go.\n\n"
    "Example: swarmtrain up RUN.toml --peers 4",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 not reachable, 4 another version or run, 130 Ctrl+C. "
    "Every error says what happened, why, and what to do.",
)
app.add_typer(config.app, name="config")
app.add_typer(experiment.app, name="experiment")
for command in (run.up, run.coordinator, run.peer, run.reference, run.simulate, run.check):
    app.command(rich_help_panel="Run")(command)
for request in (terms.pause, terms.resume, terms.leave):
    app.command(rich_help_panel="Your peer")(request)
app.command(rich_help_panel="Look")(status.status)
app.command(rich_help_panel="Look")(plan.plan)
app.command(rich_help_panel="Look")(bench.bench)
app.command(rich_help_panel="Look")(doctor.doctor)
app.command("eval", rich_help_panel="Use the model")(model.evaluate)
app.command(rich_help_panel="Use the model")(model.generate)
app.command("export", rich_help_panel="Use the model")(export.export)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show debug messages and tracebacks")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version"),
    ] = False,
) -> None:
    """Settings for all commands."""
    # gRPC reports every closed connection; it reads this when it is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # These two libraries report every connection at debug level.
    for chatty in ("asyncio", "hivemind"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main() -> None:
    """Run the command line; errors end with the exit code their class names."""
    try:
        app()
    except SwarmError as error:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            logging.getLogger(__name__).exception("the command failed")
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
