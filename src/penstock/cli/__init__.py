"""The command `penstock`."""

import click

from penstock import __version__
from penstock.cli.demo import demo
from penstock.cli.inspect import inspect
from penstock.cli.prepare import prepare
from penstock.cli.profile import profile
from penstock.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="penstock")
def main() -> None:
    """Keeps PyTorch models fed."""


main.add_command(demo)
main.add_command(inspect)
main.add_command(prepare)
main.add_command(profile)
main.add_command(run)
