from __future__ import annotations

import html.parser
import re
import time
from typing import Any

import pytest

from buildkit_riscv64.validation import evidence, history, page
from buildkit_riscv64.validation.artifacts import Subject

from .factories import result, scene

EVIL = "</pre><script>alert(1)</script><img src=x onerror=y>\"'&"


class Reader(html.parser.HTMLParser):
    """Parses a page like a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"input", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def render(found: Subject, stale: list[str] | None = None, **suites: Any) -> str:
    document, _ = evidence.assemble(found, suites or {"standalone": result()}, None)
    return page.render(document, stale or [])


def test_page_is_self_contained(found: Subject) -> None:
    text = render(found)
    parsed = read(text)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"url\(|@import|https?://|\bon\w+=", text)
    assert all(str(link["href"]).startswith(("#", "evidence.json", "junit-")) for link in parsed.of("a"))  # fmt: skip


def test_squares_link_to_scenarios(found: Subject) -> None:
    scenes = [scene(f"test_{n}", outcome) for n, outcome in enumerate(["passed", "failed", "not proven"])]  # fmt: skip
    parsed = read(render(found, standalone=result(*scenes), buildx=result(*scenes)))
    squares = [link for link in parsed.of("a") if str(link.get("class")).startswith("square")]
    targets = {str(div["id"]) for div in parsed.of("div") if str(div.get("class")) == "body"}
    assert {str(link["href"]) for link in squares} == {f"#{name}" for name in targets}
    assert len(squares) == len(targets) == 6
    assert [link["class"] for link in squares[:3]] == [
        "square passed", "square failed", "square not-proven",
    ]  # fmt: skip
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_only_failures_are_open(found: Subject) -> None:
    parsed = read(render(found, standalone=result(scene(), scene("b", "failed"), scene("c", "not proven"))))  # fmt: skip
    assert ["open" in details for details in parsed.of("details")] == [False, True, False]


def test_page_names_artifacts_and_missing_suites(found: Subject) -> None:
    text = render(found)
    reported = found.as_json()
    for digest in (
        *reported["binaries"].values(),
        *reported["images"].values(),
        reported["revision"],
    ):
        assert digest in text
    assert "natively on riscv64" in text
    for name in ("buildx", "rootless", "platforms"):
        assert re.search(rf"Suite {name} \(.*\) has not run", text)


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ("native", "natively on riscv64"),
        ("qemu-system", "on an emulated riscv64 machine (qemu-system)"),
        ("qemu-user", "on another machine, each program emulated for riscv64 (qemu-user)"),
    ],
)
def test_execution(found: Subject, execution: str, words: str) -> None:
    document, _ = evidence.assemble(found, {"standalone": result()}, None)
    document["host"]["execution"] = execution
    assert words in page.render(document)


def test_page_of_incomplete_evidence(found: Subject) -> None:
    text = render(
        found, ["another build"],
        standalone=result(partial=True, select="a<b"), buildx=result(aborted="pytest ended early"),
    )  # fmt: skip
    assert "Another build." in text
    assert "scenarios that match <code>a&lt;b</code>" in text
    assert "did not run to its end: pytest ended early" in text
    assert "Out of date" not in render(found)


def test_hostile_texts_are_escaped(found: Subject) -> None:
    hostile = scene(
        f"test[{EVIL}]", "failed", group=EVIL, title=EVIL, failure=f"E  {EVIL}",
        logs=[{"name": EVIL, "text": EVIL}],
    )  # fmt: skip
    other = scene("test_b", "not proven", reason=EVIL)
    text = render(found, standalone=result(hostile, other, partial=True, select=EVIL))
    parsed = read(text)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in parsed.tags)
    assert "&lt;script&gt;" in text


def test_unproven_scenarios_are_grouped_by_reason(found: Subject) -> None:
    scenes = [scene(f"test_{n}", "not proven", reason="of the kernel") for n in range(3)]
    text = render(found, standalone=result(*scenes), buildx=result(*scenes))
    section = text.partition('id="open"')[2].partition("</section>")[0]
    assert section.count("of the kernel") == 1
    assert section.count("The title of") == 6


def test_changes(found: Subject) -> None:
    before = result(
        scene("test_fixed", "failed"), scene("test_broken"), scene("test_slow"), scene("test_same")
    )
    after = result(
        scene("test_fixed"), scene("test_slow", seconds=90.0), scene("test_same"),
        scene("test_broken", "failed"), scene("test_new", title=EVIL),
    )  # fmt: skip
    found_changes = history.changes("v0.32.1", before, after, same_machine=True)
    text = render(found, standalone={**after, "changes": found_changes}, buildx=after)
    section = text.partition('id="changes">')[2].partition("</h2>")[2].partition("</section>")[0]
    assert "v0.32.1, 2026-11-25 11:10 UTC" in section
    words = ["passed → failed", "failed → passed", "1.5 s → 1 min 30 s", "new, passed"]
    assert re.findall(r'<span class="mark [\w-]+">(.*?)</span>', section) == words
    links = [str(link["href"]) for link in read(section).of("a")]
    assert links == [f"#standalone-{number}" for number in (3, 0, 1, 4)]
    assert "<img" not in section
    assert "test_same" not in section
    assert "buildx" not in section


def test_page_without_changes(found: Subject) -> None:
    assert 'id="changes"' not in render(found)
    same = history.changes("v0.32.2", result(), result(), same_machine=True)
    assert "No changes." in render(found, standalone=result(changes=same))


def test_5000_scenarios(found: Subject) -> None:
    scenes = [scene(f"test_{n}", group=f"group_{n % 40}") for n in range(5000)]

    def cost(number: int) -> float:
        started = time.process_time()
        render(found, standalone=result(*scenes[:number]))
        return time.process_time() - started

    # Not quadratic.
    assert cost(2500) < 15 * cost(500)
    text = render(found, standalone=result(*scenes))
    assert len(text) < 6 << 20
    assert len(read(text).of("details")) == 5000


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("def test():\n>   assert 1\nE   AssertionError: no\nE   more", "AssertionError: no"),
        ("INTERNAL\nmore", "INTERNAL"), ("E", "E"), ("", "no reason"), ("\n  \n", "no reason"),
    ],
)  # fmt: skip
def test_why(failure: str, line: str) -> None:
    assert page.why({"failure": failure}).startswith(line)
