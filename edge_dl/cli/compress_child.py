"""The compress stage's own process: `python -m edge_dl.cli.compress_child RUN`. It writes compress/.

Its parent sets TF_USE_LEGACY_KERAS, which must be there before TensorFlow is imported: tensorflow-model-optimization
then finds tf-keras. Keras 3 works beside it, on TensorFlow.
"""

from __future__ import annotations

import logging
import sys
import warnings

from edge_dl.cli.child import work_in
from edge_dl.cli.console import ConsoleProgress
from edge_dl.runfolder import RunFolder


def compress(folder: RunFolder) -> None:
    """Compress the run folder's trained model, or the user's own, by the recipe's methods."""
    from edge_dl import data
    from edge_dl.cli import stages

    # tf-keras and tfmot remark on their own insides; what matters to a user is said by the stage.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from edge_dl.compression.stage import compress as work

    own = stages.own_model(folder) or {}
    work(
        stages.recipe_of(folder),
        data.read(folder.path / "data"),
        stages.trained_model(folder),
        folder.path / "compress",
        custom=tuple(own.get("custom", ())),
        unsafe=bool(own.get("unsafe")),
        progress=ConsoleProgress(),
    )


if __name__ == "__main__":
    sys.exit(work_in(sys.argv[1], "compress.log", compress))
