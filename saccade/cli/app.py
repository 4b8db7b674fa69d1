"""The commands together, and what becomes of their errors: one line, exit code 2."""

import errno
import os
import sys

import typer
from typer.core import TyperGroup

import saccade
from saccade.cli import analyse, classify, look, scenes, solve, training
from saccade.cli.output import print_error, tell_warnings, wants_json
from saccade.errors import SaccadeError

EXIT_USER = 2
EXIT_INTERRUPTED = 130


class _Commands(TyperGroup):
    """Runs a command and turns what the user can fix into a line instead of a traceback."""

    def invoke(self, ctx):
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk behind a redirection shows here, not when Python has ended
            return result
        except SaccadeError as error:
            print_error(str(error), wants_json(ctx))
            raise typer.Exit(EXIT_USER) from error
        except OSError as error:
            # Files that Saccade writes report this themselves; what is left is the output, redirected.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it fails again at exit
            print_error("no space left for the output; free some disk space and run again", as_json=False)
            raise typer.Exit(EXIT_USER) from error
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    name="saccade",
    cls=_Commands,
    help="Ask small vision-language models about images, and see them look again until they are sure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"saccade {saccade.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Nothing of its own: every command stands alone."""


look.register(app)
classify.register(app)
scenes.register(app)
training.register(app)
solve.register(app)
analyse.register(app)


def main() -> None:
    """Entry point of the console script."""
    tell_warnings()
    app()
