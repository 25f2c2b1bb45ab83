"""Without any extra: the runtime, the checks and the command line work, and what needs an extra says which."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tflite_models as models

EXTRAS = ("tensorflow", "keras", "tf_keras", "jax", "torch", "jinja2", "matplotlib", "yaml", "sklearn", "tensorboard",
          "ai_edge_quantizer", "tensorflow_model_optimization", "tensorflow_hub", "sentencepiece", "psutil",
          "pytest")  # fmt: skip
# In every child too, since it stands on the path: these packages are not found, as where they are not installed.
SITE = f"""
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {EXTRAS} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
"""
IMPORTS = """
import importlib, pkgutil, sys
import edge_dl, edge_dl.checks, edge_dl.cli, edge_dl.data, edge_dl.report, edge_dl.runtime, edge_dl.text
names = [n for p in (edge_dl.checks, edge_dl.cli, edge_dl.data, edge_dl.report, edge_dl.runtime, edge_dl.text)
         for _, n, _ in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
for name in ["edge_dl.bundle", "edge_dl.recipe", "edge_dl.runfolder", "edge_dl.training.recipes", *names]:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in an environment without the extras."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(SITE)
    environment = {**os.environ, "PYTHONPATH": str(folder), "EDGE_DL_CONFIG": str(folder), "EDGE_DL_CACHE": str(folder)}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def bundle(tflite: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = models.images(4)
    golden = ({"image": images}, {"label": models.conv_reference(images).astype("float32")})
    return models.bundle_of(tmp_path_factory.mktemp("bundles") / "bundle", tflite("conv-float32"), golden)


def test_the_packages_are_not_found(bare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = bare("-c", f"import importlib.util as u; print([n for n in {EXTRAS} if u.find_spec(n)])")
    assert done.stdout.strip() == "[]", done.stderr


def test_every_module_that_needs_no_extra_is_importable(bare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = bare("-c", IMPORTS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--help"], "verify"),
        (["list"], "lstm"),
        (["inspect", "BUNDLE"], "CONV_2D"),
        (["verify", "BUNDLE"], "pass"),
        (["check", "BUNDLE", "--runtime", "tflite-runtime==2.14.0"], "loads"),
        (["target", "list"], "No targets"),
        (["data", "list"], "digits"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_that_work(
    bare: Callable[..., subprocess.CompletedProcess[str]], bundle: Path, arguments: list[str], word: str
) -> None:
    done = bare("-m", "edge_dl", *(bundle if part == "BUNDLE" else part for part in arguments))
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def save_model(path: Path) -> None:
    """What a .keras file looks like from outside; Keras is needed to look further."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Sequential", "config": {"name": "m", "layers": []}}')
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("model.weights.h5", "")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["run", "lstm"], "train"),
        (["run", "lstm", "--data", "data.npz"], "train"),
        (["run", "lstm", "--config", "settings.yaml"], "convert"),
        (["convert", "model.keras", "--data", "data.npz"], "convert"),
        (["report", "run"], "report"),
    ],
    ids=["data", "training", "yaml", "converting", "report"],
)
def test_what_needs_an_extra_says_which(
    bare: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, arguments: list[str], extra: str
) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        x_train=rng.normal(size=(60, 5, 3)).astype("float32"), y_train=np.arange(60) % 3,
        x_test=rng.normal(size=(30, 5, 3)).astype("float32"), y_test=np.arange(30) % 3,
    )  # fmt: skip
    save_model(tmp_path / "model.keras")
    (tmp_path / "settings.yaml").write_text("training.epochs: 1\n")
    if arguments[0] == "report":
        from edge_dl.recipe import to_json
        from edge_dl.runfolder import RunFolder
        from edge_dl.training.recipes import RECIPES

        with RunFolder.create(tmp_path / "run", recipe=to_json(RECIPES["lstm"]), command=[]):
            pass
    code = "import os, sys; os.chdir(sys.argv.pop(1)); from edge_dl.cli.main import main; main()"
    done = bare("-c", code, tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'edge-dl[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
