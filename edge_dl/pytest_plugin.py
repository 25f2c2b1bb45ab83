"""pytest fixtures for a user's CI: `edge_parity` and `edge_latency`.

    def test_my_model(edge_parity):
        assert edge_parity("runs/lstm/variants/while-dynamic", min_top1=0.99, max_abs=0.02)

Registered as a `pytest11` entry point, so pytest loads this file wherever edge-dl is installed: nothing but the
standard library is imported before a test asks for a fixture. docs/pytest.md is the manual.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_dl.errors import EdgeError, UsageError
from edge_dl.testing import baselines
from edge_dl.testing.conditions import Condition, parse_condition

if TYPE_CHECKING:
    from edge_dl.bundle import Limits
    from edge_dl.runtime.targets import Connection
    from edge_dl.testing.results import LatencyResult, ParityResult, Result

LIMITS = ("max_abs", "min_cosine", "min_snr_db", "min_top1", "max_drop")
_SETTINGS = {
    "edge_dl_baselines": "folder of the baselines, from pytest's root folder",
    "edge_dl_time_limit": "seconds that a target may take for one call",
    "edge_dl_openings": "how often edge_latency opens a model anew",
    **{f"edge_dl_{name}": f"default of edge_parity's {name}" for name in LIMITS},
}
_DEFAULTS = {"edge_dl_baselines": ".edge-dl/baselines", "edge_dl_time_limit": "300", "edge_dl_openings": "3"}


@dataclass(frozen=True)
class Options:
    """What the command line and the ini file say.

    Attributes:
        targets: names or addresses.
        conditions: of --edge-fail.
        update: whether results of passing tests become baselines.
        folder: of the baselines.
        limits: defaults of `edge_parity`'s limits.
        time_limit: seconds.
        openings: of `edge_latency`.
    """

    targets: tuple[str, ...]
    conditions: tuple[Condition, ...]
    update: bool
    folder: Path
    limits: Mapping[str, float]
    time_limit: float
    openings: int


_OPTIONS = pytest.StashKey[Options]()
_RESULTS = pytest.StashKey[list[Any]]()


@dataclass(frozen=True)
class OpenTarget:
    """A target that was reached: its name, its connection, and whether its clock says nothing."""

    name: str
    connection: Connection
    emulated: bool


# --- options ---------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the ini settings."""
    group = parser.getgroup("edge-dl", "models on devices (edge-dl)")
    group.addoption(
        "--edge-target",
        action="append",
        default=[],
        metavar="TARGET",
        help="name or address of a target to run edge_parity and edge_latency on (repeatable; default: local)",
    )
    group.addoption(
        "--edge-fail",
        action="append",
        default=[],
        metavar="CONDITION",
        help='fail where this holds: "latency.p50 > 1.1x" (times the baseline, whose model is timed again beside this '
        'one), "latency.p90 > 5ms", "parity.max_abs > 0.02" (repeatable)',
    )
    group.addoption(
        "--edge-update-baseline",
        action="store_true",
        help="store the results of tests that pass, and the models that they timed, as baselines",
    )
    parser.addini("edge_dl_targets", "targets, as in --edge-target", type="args", default=[])
    parser.addini("edge_dl_fail", "conditions, one a line, as in --edge-fail", type="linelist", default=[])
    for name, text in _SETTINGS.items():
        parser.addini(name, text, default=_DEFAULTS.get(name, ""))


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, so that what is wrong ends pytest before a test starts."""
    try:
        config.stash[_OPTIONS] = _read_options(config)
    except UsageError as error:
        raise pytest.UsageError(f"edge-dl: {error}") from None
    if not hasattr(config, "workerinput"):  # Under xdist the workers' reports all come to the controller.
        config.pluginmanager.register(Collector(config), "edge_dl.collector")


def _read_options(config: pytest.Config) -> Options:
    chosen = list(config.getoption("edge_target"))
    configured = list(config.getini("edge_dl_targets"))
    if chosen or configured:
        _check_targets(chosen, configured)
    targets = list(dict.fromkeys(chosen or configured or ["local"]))
    limits = {name: _number(config, f"edge_dl_{name}", low=-math.inf) for name in LIMITS}
    openings = _number(config, "edge_dl_openings", low=1) or 1
    if openings != int(openings):
        raise UsageError("edge_dl_openings is a whole number.", received=str(openings))
    return Options(
        targets=tuple(targets),
        conditions=tuple(
            parse_condition(text) for text in [*config.getini("edge_dl_fail"), *config.getoption("edge_fail")]
        ),
        update=bool(config.getoption("edge_update_baseline")),
        folder=config.rootpath / config.getini("edge_dl_baselines"),
        limits={name: value for name, value in limits.items() if value is not None},
        time_limit=_number(config, "edge_dl_time_limit", low=0.001) or 0.0,
        openings=int(openings),
    )


def _number(config: pytest.Config, name: str, *, low: float) -> float | None:
    text = str(config.getini(name)).strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < low:
        raise UsageError(f"{name} is a number" + (f" from {low:g}." if low > -math.inf else "."), received=repr(text))
    return value


def _check_targets(chosen: Sequence[str], configured: Sequence[str]) -> None:
    """Refuse what cannot be a target. A name in the ini file may be one that only some machines know."""
    from edge_dl.runtime.targets.registry import find_address
    from edge_dl.runtime.targets.url import parse_address

    for name in chosen:
        find_address(name)
    for name in configured:
        if ":" in name:
            parse_address(name)


# --- targets ---------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that uses a fixture of ours once a target."""
    if "edge_target" in metafunc.fixturenames:
        targets = metafunc.config.stash[_OPTIONS].targets
        metafunc.parametrize("edge_target", targets, indirect=True, scope="session")


@pytest.fixture(scope="session")
def edge_target(request: pytest.FixtureRequest) -> Iterator[OpenTarget]:
    """The target of this test, reached once; a target that is not there skips its tests with the reason."""
    targets = request.config.stash[_OPTIONS].targets
    name = getattr(request, "param", targets[0])
    with contextlib.ExitStack() as stack:
        try:
            from edge_dl.runtime.targets import open_target

            target = open_target(name)
            connection = stack.enter_context(target.open())
            missing = [item for item in target.doctor() if not item.ok]
            if missing:
                raise UsageError(f"it needs {missing[0].what}.", received=missing[0].found, todo=missing[0].todo)
        except EdgeError as error:
            pytest.skip(f"edge-dl target {name} is absent: {error}")
        yield OpenTarget(name, connection, target.emulated)


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def edge_parity(request: pytest.FixtureRequest, edge_target: OpenTarget) -> Callable[..., ParityResult]:
    """Check a variant against its reference on every target: `assert edge_parity(variant, ...)`."""

    def check(
        variant: Any,
        reference: Any = None,
        inputs: Any = None,
        *,
        max_abs: float | None = None,
        min_cosine: float | None = None,
        min_snr_db: float | None = None,
        min_top1: float | None = None,
        max_drop: float | None = None,
        truth: Any = None,
        task: str = "",
        labels: Sequence[str] = (),
        float32: Any = None,
        custom: Sequence[str] = (),
    ) -> ParityResult:
        """Check a model; the result is true when every check passed.

        Args:
            variant: a bundle's folder, or a .tflite (which needs a reference).
            reference: a `keras.Model`, a .keras file or another model file, a function, or answers (.npz, arrays).
                None: the bundle's golden answers.
            inputs: an .npz, arrays by name, or one array; the sample axis first. None: the bundle's golden inputs;
                noise for a .tflite.
            max_abs: largest difference of an output, in units of max(1, largest value of the reference).
            min_cosine: smallest cosine of an output.
            min_snr_db: smallest signal-to-noise ratio, decibels.
            min_top1: smallest share of equal answers (from ten samples on, one changed answer is always allowed).
            max_drop: largest loss of the task metric.
            truth: true answers, by output name or one array.
            task: what a .tflite answers, e.g. "classification"; "" is told from `min_top1` and `truth`.
            labels: class names of a .tflite.
            float32: the float32 variant, to find the first different operator; None: the one beside a bundle.
            custom: classes that a .keras file needs, as "module:name".

        Raises:
            UsageError: a file, a name or a shape that does not fit, or a limit that cannot be checked.
        """
        __tracebackhide__ = True
        from edge_dl.testing.parity import check_on
        from edge_dl.testing.subjects import open_subject

        options = request.config.stash[_OPTIONS]
        given = {"max_abs": max_abs, "min_cosine": min_cosine, "min_snr_db": min_snr_db, "min_top1": min_top1,
                 "max_drop": max_drop}  # fmt: skip
        required = [name for name, value in given.items() if value is not None]
        subject = open_subject(
            variant, reference, inputs, truth=truth, limits=_limits({**options.limits, **given}, options.limits),
            required=required, task=task, labels=labels, float32=float32, custom=custom, needs_reference=True,
        )  # fmt: skip
        with subject as opened:
            result = check_on(
                edge_target.connection,
                edge_target.name,
                opened,
                judge=lambda result: _judge(request, result),
                time_limit=options.time_limit,
            )
        return _keep(request, result)

    return check


@pytest.fixture
def edge_latency(request: pytest.FixtureRequest, edge_target: OpenTarget) -> Callable[..., LatencyResult]:
    """Time a model on every target: `assert edge_latency(variant, max_p50_ms=5)`."""
    if edge_target.emulated:
        pytest.skip(f"edge-dl target {edge_target.name} is emulated: its times say nothing about a device")

    def measure(
        variant: Any,
        inputs: Any = None,
        *,
        max_p50_ms: float | None = None,
        max_p90_ms: float | None = None,
        max_p99_ms: float | None = None,
        max_load_ms: float | None = None,
        max_memory_mb: float | None = None,
    ) -> LatencyResult:
        """Time a model; the result is true when it is within every limit and --edge-fail has nothing to say.

        Args:
            variant: a bundle's folder or a .tflite.
            inputs: what to time a .tflite with (the first sample): an .npz, arrays by name, or one array. None: noise.
            max_p50_ms, max_p90_ms, max_p99_ms: the most milliseconds that a call may take.
            max_load_ms: the most milliseconds that loading may take.
            max_memory_mb: the most memory (MiB) while it is loaded and first called.

        Raises:
            UsageError: see `edge_parity`.
        """
        __tracebackhide__ = True
        from edge_dl.testing.latency import measure_on
        from edge_dl.testing.pairs import same_model
        from edge_dl.testing.subjects import open_subject

        options = request.config.stash[_OPTIONS]
        given = {"p50": max_p50_ms, "p90": max_p90_ms, "p99": max_p99_ms, "load": max_load_ms, "memory": max_memory_mb}
        limits = {name: float(value) for name, value in given.items() if value is not None}
        compares = any(item.kind == "latency" and item.relative for item in options.conditions)
        with open_subject(variant, None, inputs) as opened:
            kept = baselines.keep_model(options.folder, opened.bundle) if options.update else ""
            earlier, why, same = None, "", False
            if compares and not options.update:
                earlier, why = baselines.find_model(options.folder, _key(request, "latency"))
                same = earlier is not None and earlier.folder.name == baselines.model_name(opened.bundle)
            result = measure_on(
                edge_target.connection,
                edge_target.name,
                opened.bundle,
                limits=limits,
                earlier=None if same else earlier,
                openings=options.openings,
                time_limit=options.time_limit,
                beside_others=hasattr(request.config, "workerinput"),
            )
        ratios = same_model(result.values) if same else result.ratios
        result = replace(result, ratios=ratios, alone=why or result.alone, kept=kept)
        return _keep(request, _judge(request, result))

    return measure


def _limits(given: Mapping[str, Any], defaults: Mapping[str, float]) -> Limits:
    from edge_dl.bundle import Limits

    chosen = {}
    for name in LIMITS:
        value = given[name] if given.get(name) is not None else defaults.get(name)
        if value is not None and (isinstance(value, bool) or not math.isfinite(float(value))):
            raise UsageError(f"{name} is a finite number.", received=repr(value))
        chosen[name] = None if value is None else float(value)
    return Limits(**chosen)


def _judge(request: pytest.FixtureRequest, result: Any) -> Any:
    """Hold a result against --edge-fail."""
    from edge_dl.testing.results import judged

    options = request.config.stash[_OPTIONS]
    result = replace(result, key=_key(request, result.kind))
    conditions = [item for item in options.conditions if not (options.update and item.relative)]
    stored = baselines.read_baselines(options.folder, result.machine) if result.machine else {}
    return judged(result, conditions, stored.get(result.key))


def _key(request: pytest.FixtureRequest, kind: str) -> str:
    """What a baseline is stored under: the test, the kind of its result, and the how manieth of that kind it is."""
    earlier = sum(item.kind == kind for item in request.node.stash.get(_RESULTS, []))
    return f"{request.node.nodeid} {kind}" + (f" {earlier + 1}" if earlier else "")


def _keep(request: pytest.FixtureRequest, result: Any) -> Any:
    """Keep a result for the test's report."""
    request.node.stash.setdefault(_RESULTS, []).append(result)
    request.node.user_properties.extend(_properties(result))
    return result


def _properties(result: Result) -> list[tuple[str, Any]]:
    """For JUnit, as record_property would add them: that fixture warns under xunit2, which writes them all the same."""
    found: list[tuple[str, Any]] = [
        (f"{result.kind}.verdict", result.verdict.value),
        (f"{result.kind}.variant", result.variant),
        (f"{result.kind}.target", result.target),
        (f"{result.kind}.runtime", result.runtime),
    ]
    found += [(f"{result.kind}.{name}", value) for name, value in result.values.items() if value is not None]
    for name, ratio in result.ratios.items():
        parts = (("ratio", ratio.value), ("ratio_low", ratio.low), ("ratio_high", ratio.high))
        found += [(f"{result.kind}.{name}.{part}", value) for part, value in parts]
    return found


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the results in full to a failure, and what the controller must know to the report."""
    report: Any = yield
    results = item.stash.get(_RESULTS, [])
    if call.when != "call" or not results:
        return report
    if report.failed and hasattr(report.longrepr, "addsection"):
        for result in results:
            report.longrepr.addsection(f"edge-dl {result.kind}", str(result), "-")
    # Plain values: under xdist the report travels as JSON.
    report.edge_dl = [
        {
            "key": result.key,
            "machine": dict(result.machine),
            "entry": {"values": dict(result.values), "variant": result.variant, "runtime": result.runtime},
            "model": getattr(result, "kept", ""),
            "alone": getattr(result, "alone", ""),
            "unjudged": [condition.text for condition in result.unjudged],
        }
        for result in results
    ]
    return report


class Collector:
    """Gathers every test's results where all reports arrive, and writes baselines when the session ends."""

    def __init__(self, config: pytest.Config) -> None:
        self.options = config.stash[_OPTIONS]
        self.passed: list[dict[str, Any]] = []
        self.unjudged: dict[str, list[str]] = {}
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test found out."""
        for found in getattr(report, "edge_dl", ()):
            for text in found["unjudged"]:
                self.unjudged.setdefault(text, []).append(found["key"])
            if found["alone"] and not found["unjudged"]:
                self.lines.append(
                    f"compared with numbers of an earlier session, to which more is allowed: {found['key']}: "
                    f"{found['alone']}"
                )
            if report.passed and found["machine"]:
                self.passed.append(found)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write baselines: one writer for all workers, a file a machine."""
        if not self.options.update:
            return
        machines: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        try:
            models = {found["key"]: found["model"] for found in self.passed if found["model"]}
            baselines.write_models(self.options.folder, models)
        except (EdgeError, OSError) as error:
            self.lines.append(f"the baselines' models could not be stored: {error}")
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        for found in self.passed:
            machine, entries = machines.setdefault(baselines.fingerprint(found["machine"]), (found["machine"], {}))
            entries[found["key"]] = found["entry"]
        for machine, entries in machines.values():
            try:
                path = baselines.write_baselines(self.options.folder, machine, entries)
            except (EdgeError, OSError) as error:
                self.lines.append(f"baselines could not be stored: {error}")
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
                continue
            self.lines.append(f"{len(entries)} baselines stored in {path}")
        if not machines:
            self.lines.append("no baseline stored: no test that passed has a result")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was stored, and what could not be judged."""
        for text, keys in self.unjudged.items():
            self.lines.append(
                f'not judged by "{text}", for want of a baseline: {", ".join(sorted(set(keys)))} '
                "(store one with --edge-update-baseline)"
            )
        if self.lines:
            terminalreporter.section("edge-dl")
            for line in self.lines:
                terminalreporter.line(line)
