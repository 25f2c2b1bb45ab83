from __future__ import annotations

import builtins
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_run import make_outcome, make_run

from edge_dl.errors import UsageError
from edge_dl.report import collect, write_report
from edge_dl.report.page import to_html
from edge_dl.report.results import collect as collect_results

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "polyline", "use"}
HOSTILE = "<script>alert(1)</script>\" onload='x' </svg><img src=http://evil.example/x> {{ 7*7 }} $\\frac$ &amp;"


class Page(HTMLParser):
    """Tags with their attributes' names, the text, ids, and everything a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "srcset", "data", "action", "xlink:href") or (name == "href" and tag != "a"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "r"
    return make_run(folder, variants=("while-float32", "while-dynamic", "unroll-int8", "while-int8", "fused-int16x8"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).html.read_text(encoding="utf-8")


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(load.startswith(("#", "data:")) for load in parsed.loads)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(parsed.ids)


def test_a_run_that_left_the_lowering_to_auto_says_what_auto_tried(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", variants=("while-float32", "unroll-float32"), lowerings=("auto",))
    text = Page(write_report(folder).html.read_text(encoding="utf-8")).text
    assert "What auto tried" in text
    assert "Which variant is fastest" not in text


def test_verdict_comes_first_and_everything_is_told(page: str) -> None:
    places = [page.index(f'id="{name}"') for name in ("verdict", "variants", "auto", "unmade", "answers", "reproduce")]
    assert places == sorted(places)
    text = Page(page).text.replace("\u00a0", " ")
    assert text.index("1 of 3 checked variants failed") < text.index("Loss of accuracy")
    for words in (
        "crashed (SIGSEGV)",
        "Use unroll-int16x8.",
        "edge-dl run lstm --out 'runs/my run'",
        "Which variant is fastest",
        "Gradient flow through time",
        "Confusion matrix: Keras model and while-dynamic",
        "was right, now wrong",
        "seed training 0",
        "84.0 µs",
        "1.61× faster",
        "94.6 KiB",
    ):
        assert words in text, words


def test_no_verdict_is_told_by_colour_alone(page: str) -> None:
    badges = re.findall(r'<span class="badge [a-z]*">([^<]*)</span>', page)
    assert badges
    assert all(badge.strip() for badge in badges)


def test_drawings_have_a_title_and_a_text(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 4
    for drawing in drawings:
        assert 'role="img"' in drawing
        assert re.search(r"<title[^>]*>[^<]+</title>", drawing)
    assert page.count("<desc") >= 4


def test_hostile_labels_change_no_tag(tmp_path: Path) -> None:
    names = ("while-float32", "unroll-int8")
    pages = []
    for place, labels in enumerate(
        (tuple(f"class {n}" for n in range(4)), (HOSTILE, "𝔘𝔫𝔦 日本 ‮rtl", "a\x00b\x1b\n", "'\"><b>"))
    ):
        run = make_run(tmp_path / str(place), labels=labels, variants=names)
        pages.append(Page(write_report(run).html.read_text(encoding="utf-8")))
    assert pages[0].tags == pages[1].tags
    assert "<script>alert(1)</script>" in pages[1].text


def bare(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what charts are drawn from: a page takes milliseconds then."""
    return {**results, "training": None, "gradient_flow": None, "answers": []}


def one_variant(message: str, name: str) -> dict[str, Any]:
    check = {"name": "max_abs", "verdict": "fail", "message": message, "output": name, "value": 1.0, "limit": 0.5}
    return {
        "name": "while-float32",
        "lowering": "while",
        "quantization": "float32",
        "verdict": "fail",
        "message": message,
        "conversion": {
            "status": "converted",
            "message": message,
            "todo": message,
            "seconds": 1.0,
            "tool": name,
            "signal": "",
            "notes": [message],
            "log": [message],
        },
        "bundle": None,
        "bytes": 100,
        "gzip_bytes": 3,
        "weight_bytes": {name: 4},
        "signature": None,
        "made_by": {name: message},
        "min_runtime_version": "",
        "limits": {},
        "samples": 3,
        "checks": [check],
        "outputs": [],
        "metrics": [],
        "metric": {},
        "latency": {},
        "comparison": {},
        "inspection": None,
        "chosen": False,
        "ratio": None,
    }


# What JSON can carry; lone surrogates cannot be written as UTF-8 and are replaced when a run is read.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40) | st.sampled_from(
    [HOSTILE, "]]>", "-->", "</title>"]
)


@given(message=TEXT, name=TEXT)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_from_outside_becomes_markup(tmp_path: Path, message: str, name: str) -> None:
    empty = collect_results(tmp_path)

    def tags(message: str, name: str) -> list[tuple[str, tuple[str, ...]]]:
        variant = one_variant(message, name)
        results = {
            **empty,
            "name": name,
            "summary": message,
            "task": name,
            "variants": [variant],
            "notes": [message],
            "verdict": {
                **empty["verdict"],
                "status": "fail",
                "counts": {**empty["verdict"]["counts"], "fail": 1},
                "failures": [
                    {"variant": name, "held": False, "check": name, "output": "", "verdict": "fail", "message": message}
                ],
            },
            "recipe": {"name": message},
            "versions": {name: message},
            "git": message,
            "reproduce": {"command": [message], "line": message, "seeds": {name: message}},
        }
        return Page(to_html(bare(results))).tags

    assert tags(message or "x", name or "x") == tags("plain", "plain")


def test_empty_run_has_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path).html.read_text(encoding="utf-8")
    assert "Nothing has been converted yet" in page
    assert Page(page).open == []


def test_all_refused(tmp_path: Path) -> None:
    for name in ("while-int8", "unroll-int8"):
        make_outcome(tmp_path, name, "refused", "Layer 'mask <b>' has a mask.", "Use unroll.")
    page = write_report(tmp_path).html.read_text(encoding="utf-8")
    text = Page(page).text
    assert "No conversion gave a model" in text
    assert "Layer 'mask <b>' has a mask." in text


def test_synthetic_data_is_flagged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", variants=(), synthetic=True)
    paths = write_report(run)
    assert "Synthetic data" in paths.html.read_text(encoding="utf-8")
    assert "Synthetic data" in paths.markdown.read_text(encoding="utf-8")


def test_a_damaged_test_split_costs_only_the_drawings(run: Path, page: str, tmp_path: Path) -> None:
    assert 'class="heat' in page
    damaged = make_run(tmp_path / "r", variants=("while-float32", "unroll-int8"))
    (damaged / "data/test.npz").write_bytes(b"PK\x03\x04 cut off")
    assert 'class="heat' not in write_report(damaged).html.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_package_names_the_extra_and_keeps_the_rest(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "r", variants=("while-float32",))
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"edge-dl\[report\]"):
        write_report(run)
    monkeypatch.undo()
    assert (run / "results.json").is_file()
    assert (run / "report.md").is_file()
    assert not (run / "report.html").exists()


def test_page_is_the_same_for_the_same_run(run: Path, page: str) -> None:
    assert to_html(collect(run), run) == page
