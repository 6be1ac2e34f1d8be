"""`penstock run`."""

import os
import sys

import click


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "as_module", is_flag=True, help="The program is a module's name, as in `python -m`.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(as_module: bool, program: str, arguments: tuple[str, ...]) -> None:
    """Run a Python program with Penstock in the place of torch's DataLoader.

    PROGRAM is whatever `python` takes: a script, a folder or archive with a __main__.py; with -m, a module.
    At its end, one line on standard error tells how long it waited for data.
    """
    from penstock.integrations.run import command

    if sys.platform != "linux":
        raise click.ClickException(
            "`penstock run` needs Linux; elsewhere, use penstock.DataLoader by its name."
        )
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise click.ClickException("Python's options -I, -E and -S keep Penstock out: run it without them.")
    line, environment = command([*(["-m"] if as_module else []), program, *arguments])
    try:
        os.execve(line[0], line, environment)
    except OSError as error:
        raise click.ClickException(f"can't start Python ({line[0]!r}): {error.strerror}") from error
