"""The `edge-dl` command: one function a subcommand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

import edge_dl
from edge_dl.cli.console import ConsoleProgress, end_on_sigterm, guarded, keep_interrupts, print_json, print_table
from edge_dl.cli.targets import target_app

app = typer.Typer(
    name="edge-dl",
    help="Keras models on phones and Raspberry Pis, with proof that they still are the models that were trained.",
    epilog="Exit codes: 0 passed, 1 a check failed, 2 wrong use, 3 a stage broke.",
    no_args_is_help=True,
    add_completion=False,
    # Typer's boxes around the help take longer to load than everything else that `--help` does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(name="data", help="Data sets: list, fetch, describe.", no_args_is_help=True)
app.add_typer(data_app)
app.add_typer(target_app)

Data = Annotated[str, typer.Option("--data", help="A data set's name, or a file or folder: .npz, .csv, .ts, ...")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe.")]
Config = Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; by default runs/NAME.")]
Force = Annotated[bool, typer.Option("--force", help="Do finished stages again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Custom = Annotated[
    list[str] | None, typer.Option("--custom", metavar="MODULE:CLASS", help="A layer class of your own.")
]
Unsafe = Annotated[
    bool, typer.Option("--unsafe", help="Load Lambda layers and SavedModels in a .keras: they run code from the file.")
]
TaskOption = Annotated[str, typer.Option("--task", help="What your own model answers; told from the data if empty.")]
On = Annotated[
    str | None, typer.Option("--on", metavar="NAME[,NAME]", help="Targets to run on: names or addresses; see `target`.")
]
Samples = Annotated[int | None, typer.Option("--samples", min=0, help="With --on: test samples a target; 0: all.")]
TargetLimit = Annotated[float | None, typer.Option("--time-limit", min=1.0, help="With --on: seconds a call may take.")]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME[,NAME]",
        help="Make variants that load there, e.g. tflite-runtime==2.14.0; see `check`.",
    ),
]
Weights = Annotated[
    str, typer.Option("--weights", metavar="FILE", help="Backbone weights from a file, for transfer learning.")
]
MaxDrop = Annotated[
    str,
    typer.Option(
        "--max-drop",
        metavar="SHARE",
        help="Accuracy budget, e.g. 0.5%: what variants may lose; makes `mixed`, the cheapest mix that holds it.",
    ),
]
What = Annotated[str, typer.Argument(help="A recipe, a run folder, or a model: .keras, .h5, SavedModel, .tflite.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"edge-dl {edge_dl.__version__}")
        raise typer.Exit


@app.command("list")
@guarded
def list_recipes(json: Json = False) -> None:
    """List the recipes."""
    from edge_dl.training.recipes import RECIPES

    if json:
        from edge_dl.recipe import to_json

        print_json([to_json(recipe) for recipe in RECIPES.values()])
        return
    rows = [[recipe.name, recipe.task.value, recipe.data.source, recipe.summary] for recipe in RECIPES.values()]
    print_table(["recipe", "task", "data", "what it is"], rows)


@app.command()
@guarded
def run(
    what: What,
    data: Data = "",
    set: Set = None,
    config: Config = None,
    out: Out = None,
    task: TaskOption = "",
    custom: Custom = None,
    unsafe: Unsafe = False,
    weights: Weights = "",
    runtime: Runtime = "",
    max_drop: MaxDrop = "",
    on: On = None,
    samples: Samples = None,
    time_limit: TargetLimit = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Do everything: data, training, export, conversion, checks, report. A finished stage is not done again."""
    from edge_dl.cli import compatibility, stages, targets, workflow

    asked = targets.read_asked(on, samples, time_limit)
    settings = compatibility.with_runtime(
        runtime, workflow.with_options(set, {"model.weights": workflow.absolute(weights)})
    )
    with workflow.open_run(
        what, data, settings, config, out, task=task, custom=custom or (), unsafe=unsafe, max_drop=max_drop
    ) as folder:
        workflow.do(folder, workflow.STAGES, ConsoleProgress(), force=force)
        if asked:
            stages.run_targets(folder, asked, ConsoleProgress(), force=force)
        workflow.finish(folder, ConsoleProgress(), json=json)


def _stage_command(name: str, summary: str) -> None:
    """Add the command of one stage: it works on a recipe, a run folder, or a model of one's own."""

    def command(
        what: What,
        data: Data = "",
        set: Set = None,
        config: Config = None,
        out: Out = None,
        task: TaskOption = "",
        custom: Custom = None,
        unsafe: Unsafe = False,
        weights: Weights = "",
        runtime: Runtime = "",
        max_drop: MaxDrop = "",
        force: Force = False,
        json: Json = False,
    ) -> None:
        from edge_dl.cli import compatibility, workflow

        settings = compatibility.with_runtime(
            runtime, workflow.with_options(set, {"model.weights": workflow.absolute(weights)})
        )
        with workflow.open_run(
            what, data, settings, config, out, task=task, custom=custom or (), unsafe=unsafe, max_drop=max_drop
        ) as folder:
            workflow.do(folder, workflow.up_to(folder, name), ConsoleProgress(), force=force)
            workflow.tell(folder, name, json=json)

    command.__doc__ = summary
    app.command(name)(guarded(command))


_stage_command("train", "Train a recipe's model (and load its data first).")
_stage_command("compress", "Prune, cluster and train for quantization (and what comes before): compression.methods.")
_stage_command("export", "Write SavedModels with named signatures and static shapes, one a lowering.")
_stage_command("convert", "Make every variant: lower, quantize, bundle.")


@app.command()
@guarded
def verify(
    what: Annotated[str, typer.Argument(help="A run folder, a bundle, or a .tflite file.")],
    reference: Annotated[Path | None, typer.Option("--reference", help=".tflite only: npz of answers, y/NAME.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help=".tflite only: npz of inputs, x/NAME.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="ai_edge_litert, tflite_runtime or tensorflow.")] = "auto",
    on: On = None,
    samples: Samples = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", min=1.0, help="Seconds a model may take (3600); with --on: a call (300)."),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Check parity: does the model on the device still give the trained model's answers?"""
    from edge_dl.cli import targets, workflow

    if asked := targets.read_asked(on, samples, time_limit, here=True):
        targets.refuse_with_on({"--reference": reference, "--data": data, "--runtime": runtime != "auto"})
        targets.verify_on(what, asked, json=json)
        return
    workflow.verify(
        what, reference=reference, data=data, runtime=runtime, time_limit=time_limit, force=force, json=json
    )


@app.command()
@guarded
def bench(
    what: Annotated[str, typer.Argument(help="A run folder, a bundle, or a .tflite file.")],
    against: Annotated[str, typer.Option("--against", help="A second bundle or .tflite file to compare with.")] = "",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Interpreter threads.")] = 1,
    runtime: Annotated[str, typer.Option("--runtime", help="ai_edge_litert, tflite_runtime or tensorflow.")] = "auto",
    on: On = None,
    time_limit: TargetLimit = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure latency, and compare two models fairly."""
    from edge_dl.cli import targets, workflow

    if asked := targets.read_asked(on, None, time_limit):
        targets.refuse_with_on({"--against": against, "--threads": threads != 1, "--runtime": runtime != "auto"})
        targets.bench_on(what, asked, json=json)
        return
    workflow.bench(what, against=against, threads=threads, runtime=runtime, force=force, json=json)


@app.command()
@guarded
def inspect(
    what: Annotated[str, typer.Argument(help="A .tflite file or a bundle.")],
    json: Json = False,
) -> None:
    """Look into a .tflite file: signatures, tensors, operators, sizes, the oldest runtime that loads it."""
    from edge_dl.cli import workflow

    workflow.inspect(what, json=json)


@app.command()
@guarded
def check(
    what: Annotated[str, typer.Argument(help="A .tflite file or a bundle.")],
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            metavar="NAME[,NAME]",
            help="tflite-runtime==2.14.0, ai-edge-litert==1.4.0, android-tflite-2.16, litert-2.3, "
            "litert-compiled-model, litert-micro",
        ),
    ],
    json: Json = False,
) -> None:
    """Will it load in another runtime, and be right? Operator by operator, from tables. Exit code 1: not everywhere."""
    from edge_dl.cli import compatibility

    compatibility.check(what, runtime, json=json)


@app.command()
@guarded
def debug(
    what: Annotated[str, typer.Argument(help="A bundle, a run folder, or a .tflite file: the quantized model.")],
    variant: Annotated[str, typer.Argument(help="With a run folder: the variant's name.")] = "",
    reference: Annotated[Path | None, typer.Option("--reference", help="The float32 .tflite or bundle.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="npz of inputs, x/NAME.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples to run on.")] = 16,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the page; by default in the run.")] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Operators to print; 0: all.")] = 20,
    json: Json = False,
) -> None:
    """Which operators lose a quantized model's accuracy, and why? Exit code 1: one does real harm."""
    from edge_dl.cli import debug as debugging

    debugging.debug(what, variant, reference=reference, data=data, samples=samples, out=out, top=top, json=json)


@app.command()
@guarded
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    beside: Annotated[
        Path | None, typer.Option("--beside", help="Another run that translates: BLEU by length of both in one chart.")
    ] = None,
    json: Json = False,
) -> None:
    """Write report.html, report.md, junit.xml and results.json from what a run folder holds."""
    from edge_dl.cli import workflow
    from edge_dl.runfolder import RunFolder

    with RunFolder.open(run) as folder:
        workflow.finish(folder, ConsoleProgress(), beside=beside, json=json)


@app.command()
@guarded
def compare(
    before: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder, or its results.json.")],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="The one that came later.")],
    bench: Annotated[bool, typer.Option("--bench", help="Time both runs' models in turns, seconds each.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a pull request's comment.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also show what shows no difference.")] = False,
    json: Json = False,
) -> None:
    """What changed from one run to another. Exit code 1: a check or a metric got worse."""
    from edge_dl.cli import compare as comparing

    comparing.compare(before, after, bench=bench, markdown=markdown, everything=everything, json=json)


@app.command()
@guarded
def generate(
    bundle: Annotated[Path, typer.Argument(help="A `step` bundle of a language model.")],
    prompt: Annotated[str, typer.Option("--prompt", help="Text to go on from.")] = "The ",
    length: Annotated[int, typer.Option("--length", min=1, help="Tokens to generate.")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest.")] = 0.7,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from the k likeliest only; 0: from all.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
) -> None:
    """Let a language model write, one step at a time, as it does on a device."""
    from edge_dl.cli import workflow

    workflow.generate(bundle, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed)


@app.command()
@guarded
def translate(
    bundle: Annotated[Path, typer.Argument(help="A bundle that translates, or a run folder that has one.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; without any, lines of standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A file of texts, one a line.")] = None,
    beams: Annotated[int, typer.Option("--beams", min=1, help="Width of the beam; 1 is greedy.")] = 1,
    best: Annotated[int, typer.Option("--best", min=1, help="Translations to print of each text.")] = 1,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", min=0.0, help="Exponent of Wu et al. 2016; 0 favours short ones.")
    ] = 0.6,
    coverage: Annotated[
        float, typer.Option("--coverage", min=0.0, help="Weight of having looked at all of the text; needs attention.")
    ] = 0.0,
    longest: Annotated[
        int, typer.Option("--longest", min=0, help="Tokens a sentence's translation may have; 0: the model's own.")
    ] = 0,
    attention: Annotated[bool, typer.Option("--attention", help="Show which part of the text was looked at.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw the attention: FILE.svg or FILE.html.")
    ] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="Interpreter; auto takes the first installed.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the interpreter.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Translate texts, as on a device. Prints translation and score. Exit code 2: one could not be translated."""
    from edge_dl.cli import translate as translating
    from edge_dl.runtime.search import Search

    settings = Search(beams, length_penalty, coverage, best, longest)
    failures = translating.translate(
        bundle,
        texts or [],
        file=file,
        settings=settings,
        attention=attention,
        picture=picture,
        json=json,
        runtime=runtime,
        threads=threads,
    )
    if failures:
        raise typer.Exit(2)


EncoderOption = Annotated[
    Path | None, typer.Option("--encoder", help="A bundle or run folder of photo-encoder; by default its last run.")
]


@app.command()
@guarded
def search(
    photos: Annotated[Path, typer.Argument(help="A folder of photos; its index is kept in the cache.")],
    query: Annotated[Path, typer.Argument(help="The photo to look for.")],
    encoder: EncoderOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many photos to show.")] = 11,
    sheet: Annotated[Path, typer.Option("--sheet", help="The contact sheet to write.")] = Path("contact-sheet.jpg"),
    json: Json = False,
) -> None:
    """Find the photos most like another one, and show them on a contact sheet."""
    from edge_dl.cli import search as searching

    searching.search(photos, query, encoder=encoder, top=top, sheet=sheet, json=json)


@app.command()
@guarded
def listen(
    bundle: Annotated[Path, typer.Argument(help="A bundle of the lowering stream, or a run folder that has one.")],
    source: Annotated[str, typer.Argument(help="A wav file, or - for standard input: wav, or bare s16le.")] = "",
    microphone: Annotated[bool, typer.Option("--microphone", help="Listen to the microphone (sounddevice).")] = False,
    device: Annotated[str, typer.Option("--device", help="Which microphone: part of its name, or its number.")] = "",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="Smoothed score at which a word counts as heard: 0.5."),
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option("--smoothing", min=0.0, help="Seconds of scores that are averaged: 0.2.")
    ] = None,
    refractory: Annotated[
        float | None, typer.Option("--refractory", min=0.0, help="Seconds without another word; by default one clip.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Print every score, not words alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Listen to a file, a pipe or a microphone, and print each word when it is heard.

    Models that score single words, and models that spell strings of them, which take no threshold.
    """
    from edge_dl.cli import listen as listening

    listening.listen(
        bundle,
        source,
        microphone=microphone,
        device=device,
        detecting={"threshold": threshold, "smoothing": smoothing, "refractory": refractory},
        scores=scores,
        json=json,
    )


@app.command()
@guarded
def same(
    first: Annotated[Path, typer.Argument(help="A photo.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    encoder: EncoderOption = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Similarity; by default the encoder's.")
    ] = None,
    json: Json = False,
) -> None:
    """Do two photos show the same? Exit code 1: they do not."""
    from edge_dl.cli import search as searching

    if not searching.same(first, second, encoder=encoder, threshold=threshold, json=json):
        raise typer.Exit(1)


@data_app.command("list")
@guarded
def data_list(json: Json = False) -> None:
    """List the data sets that edge-dl knows by name."""
    from edge_dl.cli import sets

    sets.show_all(json=json)


@data_app.command("get")
@guarded
def data_get(name: Annotated[str, typer.Argument(help="A name from `edge-dl data list`.")], json: Json = False) -> None:
    """Download a data set into the cache folder and check its hash."""
    from edge_dl.cli import sets

    sets.get(name, ConsoleProgress(), json=json)


@data_app.command("info")
@guarded
def data_info(
    name: Annotated[str, typer.Argument(help="A data set's name, or a file or folder.")],
    task: TaskOption = "",
    set: Set = None,
    json: Json = False,
) -> None:
    """Describe a data set: splits, shapes, classes, licence."""
    from edge_dl.cli import sets

    sets.info(name, task=task, overrides=set or [], json=json)


for _command in (*app.registered_commands, *data_app.registered_commands, *target_app.registered_commands):
    # A summary that is given is shown whole; one that Click takes from the docstring is cut.
    _command.short_help = ((_command.callback and _command.callback.__doc__) or "").split("\n")[0]


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `edge-dl` command."""
    # TensorFlow's start-up chatter hides our own lines; the user's own setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    end_on_sigterm()
    keep_interrupts()
    return app(args=arguments)


if __name__ == "__main__":
    main()
