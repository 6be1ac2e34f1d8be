"""``python -m penstock``: the command `penstock`."""

from penstock.cli import main

main(prog_name="penstock")
