"""The training stage's own process: `python -m edge_dl.cli.train_child RUN`. It writes train/."""

from __future__ import annotations

import sys

from edge_dl.cli.child import work_in
from edge_dl.cli.console import ConsoleProgress
from edge_dl.runfolder import RunFolder


def train(folder: RunFolder) -> None:
    """Train what the run folder's recipe says on the data that lies there."""
    from edge_dl import data, training
    from edge_dl.cli.stages import recipe_of

    training.train(recipe_of(folder), data.read(folder.path / "data"), folder.path, progress=ConsoleProgress())


if __name__ == "__main__":
    sys.exit(work_in(sys.argv[1], "train.log", train))
