"""The `edge-dl` command. Heavy packages are imported only inside the command that needs them."""
