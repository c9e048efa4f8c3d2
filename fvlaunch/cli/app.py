"""Owns the app of all commands, and what becomes of an error: one clear message and an exit code.

Must import nothing heavy at the top: --help and status never load torch, submitit or jinja2.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import sys
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import EXIT_UNEXPECTED, EXIT_USER, FvlaunchError, printable, render
from ..schedulers import patience
from ..schedulers.python_processes import settle
from . import completion, maintenance_commands, result_commands, run_commands

app = typer.Typer(
    name="fvlaunch",
    help="Train and distil video diffusion models on Slurm clusters or here; a killed run finishes as if nothing had happened.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def version(show_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False) -> None:
    if show_version:
        print(f"fvlaunch {__version__}")  # noqa: T201
        raise typer.Exit


for group in (run_commands, result_commands, maintenance_commands):
    group.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and turn what happened into an exit code and one clear message."""
    settle(os.environ)
    gc.set_threshold(50_000)  # what imports make is there to stay: there is no garbage in it to look for
    try:
        code = run(arguments)
    finally:
        gc.freeze()  # nor at the end, where the interpreter would take a tenth of a second to look
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every error is told in words, what nobody foresaw with a traceback."""
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text, and a terminal need not know every letter
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except OSError:  # the message itself could not be written: nobody reads it
        with contextlib.suppress(OSError, ValueError):
            _discard_output()
        return EXIT_USER


def _run(arguments: list[str] | None) -> int:
    completion.prepare()
    patience.tell = patience.to_stderr
    usage_error: type[Exception] = typer.BadParameter.__bases__[0].__bases__[0]  # ClickException, of the click that typer uses
    try:
        code = _needed(sys.argv[1:] if arguments is None else arguments)(args=arguments, prog_name="fvlaunch", standalone_mode=False)
        _flush_output()  # here, where a closed pipe is still an error like any other
    except FvlaunchError as error:
        sys.stderr.write(render(error) + "\n")
        return error.exit_code
    except usage_error as error:
        sys.stderr.write(_usage(error) + "\n")
        return EXIT_USER
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
        return 130
    except (BrokenPipeError, SystemExit) as error:  # as in `fvlaunch logs … | head`; typer makes a SystemExit of it
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _discard_output()
        return 0
    except OSError as error:
        return _refused(error)
    except Exception:
        return _unexpected()
    return code if isinstance(code, int) else 0


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # Python would try again at its end
        _discard_output()
        raise FvlaunchError(f"the output cannot be written: {error.strerror}", hint="make room, or write it elsewhere") from None


def _refused(error: OSError) -> int:
    """Tell what the operating system does not allow, in a line: it is a fault of a folder, a disk or a name, not of this program."""
    from trainers.config.os_errors import explain

    refusal = explain(error)
    if refusal is None:
        return _unexpected()
    sys.stderr.write(render(FvlaunchError(refusal.message, hint=refusal.hint)) + "\n")
    return EXIT_USER


def _unexpected() -> int:
    import traceback

    traceback.print_exc()
    sys.stderr.write("error: this should not have happened; the lines above say where\n")
    return EXIT_UNEXPECTED


def _needed(words: list[str]) -> typer.Typer:
    """Return the app with only the command that is called: typer makes every option of all commands before it looks which is meant."""
    called = [one for one in app.registered_commands if words and words[0] == (one.name or (one.callback and one.callback.__name__))]
    if not called:
        return app  # help, completion, a wrong name
    alone = copy.copy(app)
    alone.registered_commands = called
    return alone


def _usage(error: Any) -> str:
    """Return what is wrong with the words of a command line; `fvlaunch` alone asks for the help."""
    message = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    context = getattr(error, "ctx", None)
    return f"error: {printable(message)}\nhint: {context.command_path if context else 'fvlaunch'} --help"


def _discard_output() -> None:
    """Throw away what is still buffered: nobody reads on, and it must not become an error when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
