"""`python -m edge_dl` is the `edge-dl` command."""

from edge_dl.cli.main import main

main()
