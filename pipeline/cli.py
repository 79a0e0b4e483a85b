"""``longtake``: puts the commands together, and turns what ends a command into an exit status and one line."""

import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from pipeline.commands import data, model, platform
from pipeline.commands.output import claim_stdout, say

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""Exit statuses; 0 is done, also where some inputs failed and are recorded."""

_GARBAGE_AFTER = 100_000
"""New objects after which Python looks for garbage, instead of 700: importing Ray and MLflow makes a million, and none is garbage."""

logger = logging.getLogger(__name__)

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
for group in (data, model, platform):
    group.register(app)


@app.callback(invoke_without_command=True)
def without_command(context: typer.Context) -> int:
    """Raw videos to long takes to latent shards to an autoregressive video model with memory."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise Exit(WRONG)
    return 0


def main() -> None:
    """Runs the command line."""
    gc.set_threshold(_GARBAGE_AFTER)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if "--help" not in sys.argv:  # which typer prints, and which is a result too
        claim_stdout()
    sys.exit(exit_status(app))


def exit_status(command: Callable[..., Any]) -> int:
    """Runs a command; 0 if it was done, 1 if it failed, 2 if it, its recipe or its data was wrong, else what it says itself."""
    try:
        status = command(standalone_mode=False) or 0
    except Exit as error:
        status = error.exit_code
    except TyperException as error:
        return _complain(" ".join(error.format_message().split()) + _about_dashes(error), WRONG)
    except (KeyboardInterrupt, Abort):
        return _interrupted()
    except ValueError as error:
        return _complain(_one_line(error), WRONG)
    except Exception as error:  # noqa: BLE001 - the last place where a failure can become one line
        return _complain(_one_line(error), FAILED)
    return _interrupted() if status == INTERRUPTED else status  # typer makes a status of an interrupt inside a command


def _about_dashes(error: TyperException) -> str:
    """What to do where a name was taken for an option; nothing where typer knows an option that is meant.

    Typer keeps the class of this error, and what it holds, to itself.
    """
    if not error.format_message().startswith("No such option") or getattr(error, "possibilities", None):
        return ""
    context = getattr(error, "ctx", None)
    takes_names = context and any(parameter.param_type_name == "argument" for parameter in context.command.params)
    return "; names that begin with a dash stand at the end, behind --" if takes_names else ""


def _interrupted() -> int:
    return _complain("interrupted; the same command goes on from here", INTERRUPTED)


def _one_line(error: Exception) -> str:
    if os.environ.get("LONGTAKE_DEBUG"):
        logger.error("the whole trace", exc_info=error)
    return " ".join(str(error).split()) or type(error).__name__


def _complain(line: str, status: int) -> int:
    sys.stderr.write(f"longtake: {line}\n")
    return status
