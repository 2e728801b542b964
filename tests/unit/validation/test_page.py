from __future__ import annotations

import html.parser
import re
import time
from typing import Any

import pytest

from buildkit_riscv64.validation import evidence, page
from buildkit_riscv64.validation.subject import Subject

from .scenes import result, scene

EVIL = "</pre><script>alert(1)</script><img src=x onerror=y>\"'&"


class Reader(html.parser.HTMLParser):
    """What a browser would make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta"}:
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


def test_it_needs_nothing_but_itself(found: Subject) -> None:
    text = render(found)
    seen = read(text)
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"url\(|@import|https?://|\bon\w+=", text)
    assert all(str(link["href"]).startswith(("#", "evidence.json", "junit-")) for link in seen.of("a"))  # fmt: skip


def test_each_square_leads_to_its_scenario(found: Subject) -> None:
    scenes = [scene(f"test_{n}", outcome) for n, outcome in enumerate(["passed", "failed", "not proven"])]  # fmt: skip
    seen = read(render(found, standalone=result(*scenes), buildx=result(*scenes)))
    squares = [link for link in seen.of("a") if str(link.get("class")).startswith("square")]
    targets = {str(div["id"]) for div in seen.of("div") if str(div.get("class")) == "body"}
    assert {str(link["href"]) for link in squares} == {f"#{name}" for name in targets}
    assert len(squares) == len(targets) == 6
    assert [link["class"] for link in squares[:3]] == [
        "square passed", "square failed", "square not-proven",
    ]  # fmt: skip
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_only_failures_are_open(found: Subject) -> None:
    seen = read(render(found, standalone=result(scene(), scene("b", "failed"), scene("c", "not proven"))))  # fmt: skip
    assert ["open" in details for details in seen.of("details")] == [False, True, False]


def test_it_says_what_was_tested_and_on_what(found: Subject) -> None:
    text = render(found)
    told = found.as_json()
    for digest in (*told["binaries"].values(), *told["images"].values(), told["revision"]):
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
def test_how_it_was_executed(found: Subject, execution: str, words: str) -> None:
    document, _ = evidence.assemble(found, {"standalone": result()}, None)
    document["host"]["execution"] = execution
    assert words in page.render(document)


def test_what_does_not_stand_is_said(found: Subject) -> None:
    text = render(
        found, ["it is of other binaries"],
        standalone=result(partial=True, select="a<b"), buildx=result(aborted="pytest ended early"),
    )  # fmt: skip
    assert "It is of other binaries." in text
    assert "scenarios that match <code>a&lt;b</code>" in text
    assert "did not run to its end: pytest ended early" in text
    assert "Out of date" not in render(found)


def test_hostile_texts_are_only_texts(found: Subject) -> None:
    spoiled = scene(
        f"test[{EVIL}]", "failed", group=EVIL, title=EVIL, failure=f"E  {EVIL}",
        logs=[{"name": EVIL, "text": EVIL}],
    )  # fmt: skip
    other = scene("test_b", "not proven", reason=EVIL)
    text = render(found, standalone=result(spoiled, other, partial=True, select=EVIL))
    seen = read(text)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in seen.tags)
    assert "&lt;script&gt;" in text


def test_unproven_scenarios_are_gathered_by_their_reason(found: Subject) -> None:
    scenes = [scene(f"test_{n}", "not proven", reason="of the kernel") for n in range(3)]
    text = render(found, standalone=result(*scenes), buildx=result(*scenes))
    section = text.partition("What is not proven, and why")[2].partition("</section>")[0]
    assert section.count("of the kernel") == 1
    assert section.count("The title of") == 6


def test_5000_scenarios(found: Subject) -> None:
    scenes = [scene(f"test_{n}", group=f"group_{n % 40}") for n in range(5000)]
    started = time.monotonic()
    text = render(found, standalone=result(*scenes))
    assert time.monotonic() - started < 30
    assert len(text) < 6 << 20
    assert len(read(text).of("details")) == 5000


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("def test():\n>   assert 1\nE   AssertionError: no\nE   more", "AssertionError: no"),
        ("INTERNAL\nmore", "INTERNAL"), ("E", "E"), ("", "no reason was given"), ("\n  \n", "no reason was given"),
    ],
)  # fmt: skip
def test_why(failure: str, why: str) -> None:
    assert page.why({"failure": failure}) == why
