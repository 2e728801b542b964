"""Every generated page in a real browser: desktop and phone, light and dark, offline."""

from __future__ import annotations

import copy
import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import measure, records
from benchmarks import page as benchmark
from buildkit_riscv64.core import dist, html, project, schemas
from buildkit_riscv64.packages import repository, signing
from buildkit_riscv64.validation import evidence, history
from buildkit_riscv64.validation import page as evidence_page
from buildkit_riscv64.validation.artifacts import Subject
from buildkit_riscv64.validation.environment.waiting import BOUND

from ..unit.validation.factories import TARGET, result, scene
from . import browser
from .browser import DESK, PHONE, Open, on_disk

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.integration, pytest.mark.pages]

EVIL = (
    "</pre></div><script>document.title = 'ran'; alert('ran')</script>"
    "<img src=https://elsewhere.example.org/x.png onerror=\"document.title='ran'\">\"'&<!--"
)
# A word that cannot be broken, and code.
LONG = "/run/user/1000/" + "a" * 300 + "/buildkitd.sock"
FAILURE = f"""\
    def test_cache(daemon):
>       assert daemon.build("--output", "type=local,dest={LONG}").cached == ["[1/3]"]
E       AssertionError: what was cached is not cached now: {LONG}
{EVIL}
buildkit_riscv64/validation/scenarios/standalone/test_cache.py:33: AssertionError"""
LOG = "\n".join(f'level=info msg="found worker {n}" root={LONG}' for n in range(100))

PAGES = [
    "site/index.html", "site/packages.html", "site/reference/commands.html", "site/search.html?q=buildx",
    "evidence/index.html", "benchmark/index.html", "repository/index.html", "trial/index.html",
]  # fmt: skip
#: Violations in Sphinx and its theme, not in our pages: roles of captions in the menu, and
#: scrollable elements, which browsers make focusable.
THEIRS = (
    "aria-required-attr", "empty-table-header", "landmark-unique", "page-has-heading-one", "region",
    "scrollable-region-focusable", "target-size",
)  # fmt: skip


def suite(**changes: Any) -> dict[str, Any]:
    """A suite with many scenarios in groups, some of them failed."""
    scenes = [
        scene(
            f"test_{n}[{group}]", group=group, seconds=n * 7.3,
            title=f"A change of files invalidates a step, a change of timestamps does not, number {n}",
        )
        for group, number in (("dockerfile", 26), ("no_emulator", 3), ("cache", 20))
        for n in range(number)
    ]  # fmt: skip
    logs = [{"name": "Captured stdout call", "text": EVIL}, {"name": "daemon", "text": LOG}]
    scenes[3] |= {"outcome": "failed", "failure": FAILURE, "logs": logs}
    scenes[4] |= {"title": EVIL, "name": EVIL, "outcome": "failed", "failure": EVIL}
    scenes[5] |= {"outcome": "not proven", "reason": f"this kernel has no {LONG}{EVIL}"}
    return result(*scenes, **changes)


def make_evidence(directory: Path) -> None:
    """Write a page of evidence with every kind of content."""
    directory.mkdir()
    programs = [{"name": dist.binary(name), "sha256": "5" * 64} for name in dist.COMMANDS]
    digest = f"sha256:{'7' * 64}"
    manifest = {
        "version": "v0.32.2", "revision": "9" * 40, "source": {"pinned": False}, "files": programs,
        "build": {"inputs": digest},
    }  # fmt: skip
    image = dist.Artifacts(directory, {"digest": digest, "build": {"inputs": digest}})
    subject = Subject(TARGET, dist.Artifacts(directory, manifest), {"root": image})
    suites = {
        "standalone": suite(),
        "rootless": suite(partial=True, select=f"limits or {EVIL}", aborted=f"it ended: {EVIL}"),
    }
    earlier = copy.deepcopy(suites["standalone"])
    earlier["scenarios"][3]["outcome"] = "passed"
    earlier["scenarios"][9]["outcome"] = "failed"
    earlier["scenarios"][10]["seconds"] = 1.0
    del earlier["scenarios"][6:8]
    suites["standalone"]["changes"] = history.changes(
        "v0.32.1", earlier, suites["standalone"], same_machine=True
    )
    document, _ = evidence.assemble(subject, suites, None)
    assert schemas.validation_error(document, schemas.EVIDENCE) == ""
    text = evidence_page.render(document, ["it is for a different root image than the present one"])
    (directory / html.INDEX).write_text(text)


def make_benchmark(directory: Path) -> None:
    """Write a page of benchmarks with the last two runs of each machine, and our own commands."""
    paths = sorted(measure.RESULTS.glob(f"{records.NAME}.*.json"))
    results = [{**one, "runs": one["runs"][-2:]} for one in map(records.load, paths)]
    own = [
        records.load(path, schemas.MEASUREMENT)
        for path in sorted(measure.RESULTS.glob("*.json"))
        if path not in paths
    ]
    directory.mkdir()
    (directory / html.INDEX).write_text(benchmark.render(results, own))


def make_repository(directory: Path, url: str, signer: signing.Signer | None) -> None:
    """Write the page of a repository, and the files that it links."""
    files = [
        {"name": name, "format": form, "arch": "riscv64", "size": 70_566_796, "sha256": "6" * 64}
        for form, name in (
            ("deb", "buildkit-rootless_0.32.2-1_riscv64.deb"),
            ("rpm", "buildkit-rootless-0.32.2-1.riscv64.rpm"),
        )
    ]
    for file in files:
        (directory / str(file["format"])).mkdir(parents=True)
        (directory / str(file["format"]) / str(file["name"])).touch()
    packages = [dist.Artifacts(directory, {"files": files})]
    repository._write_instructions(
        directory, repository.RepositoryOptions(url=url), packages, signer
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all pages."""
    root = tmp_path_factory.mktemp("pages")
    subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--doctree-dir",
         root / "doctrees", project.ROOT / "docs", root / "site"],
        check=True, cwd=project.ROOT, timeout=BOUND,
    )  # fmt: skip
    make_evidence(root / "evidence")
    make_benchmark(root / "benchmark")
    signer = signing.Signer(root, "7089F746434988E9B96A8F48EC3C6B330C96087C", "Us <us@example.org>")
    make_repository(root / "repository", "https://packages.example.org/of/all/of/us", signer)
    make_repository(root / "trial", "", None)
    return root


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.opened() as opened:
        yield opened


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Open]:
    """Opens pages."""
    with browser.tabs(chromium) as tabs:
        yield tabs


@pytest.mark.parametrize("name", PAGES)
def test_page_is_complete_and_self_contained(root: Path, visit: Open, name: str) -> None:
    tab = visit(on_disk(root, name))
    tab.unfold()
    assert tab.page.title()
    assert tab.page.locator(":is(h1, h2):visible").first.inner_text()
    assert tab.page.locator("html").get_attribute("lang") == "en"
    assert tab.messages == []
    assert tab.asked == []


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(root: Path, visit: Open, name: str) -> None:
    tab = visit(on_disk(root, name), PHONE)
    tab.unfold()
    assert tab.width() == PHONE[0]
    assert tab.cut_off() == []


def test_site_fits_a_phone(root: Path, visit: Open) -> None:
    tab = visit(on_disk(root, "site/index.html"), PHONE)
    found = [page.relative_to(root) for page in (root / "site").rglob("*.html")]
    assert len(found) > 20
    for name in found:
        tab.page.goto(on_disk(root, str(name)))
        assert (name, tab.width(), tab.cut_off()) == (name, PHONE[0], [])
    assert (tab.messages, tab.asked) == ([], [])


@pytest.mark.parametrize(("screen", "scheme"), [(DESK, "light"), (PHONE, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_readable(
    root: Path, visit: Open, name: str, screen: tuple[int, int], scheme: str
) -> None:
    tab = visit(on_disk(root, name), screen, scheme)
    tab.unfold()
    assert tab.barriers(without=THEIRS if name.startswith("site/") else ()) == []
    assert tab.brightness() < 64 if scheme == "dark" else tab.brightness() > 192


def test_scenario_opens_and_closes_on_click(root: Path, visit: Open) -> None:
    page = visit(on_disk(root, "evidence/index.html")).page
    where = page.locator("#standalone-20")
    title = page.locator("details", has=where).locator("summary")
    assert not where.is_visible()
    title.click()
    assert where.is_visible()
    assert "test_20[dockerfile]" in where.inner_text()
    title.click()
    assert not where.is_visible()


@pytest.mark.parametrize("screen", [DESK, PHONE])
def test_square_links_to_its_scenario(root: Path, visit: Open, screen: tuple[int, int]) -> None:
    page = visit(on_disk(root, "evidence/index.html"), screen).page
    page.locator("a.square[href='#standalone-40']").click()
    scenario = page.locator("details", has=page.locator("#standalone-40"))
    for part in (scenario.locator(".body"), scenario.locator(".title")):
        place = part.bounding_box()
        assert place is not None, "not open"
        assert 0 <= place["y"] <= screen[1] - place["height"], "not on the screen"


def test_the_evidence_is_filtered_by_outcome(root: Path, visit: Open) -> None:
    page = visit(on_disk(root, "evidence/index.html")).page
    scenarios = page.locator("main .group details")
    every = scenarios.count()
    for label, outcome in (("failed", "failed"), ("not proven", "not-proven")):
        page.get_by_label(label, exact=True).check()
        shown = page.locator("main .group details:visible")
        assert 0 < shown.count() < every
        assert shown.count() == page.locator(f"main .group details.{outcome}").count()
    # A link leads to its scenario, although the filter hides its outcome.
    page.locator("a.square[href='#standalone-40']").click()
    assert page.locator("#standalone-40").is_visible()
    page.get_by_label("all", exact=True).check()
    assert page.locator("main .group details:visible").count() == every


def test_failed_scenarios_are_open_with_logs(root: Path, visit: Open) -> None:
    page = visit(on_disk(root, "evidence/index.html")).page
    failed = page.locator("#standalone-3")
    assert failed.is_visible()
    texts = failed.locator("pre").all_inner_texts()
    assert texts == [FAILURE, EVIL, LOG]
    first = page.locator("section[aria-labelledby='failed'] li").first.inner_text()
    assert "AssertionError: what was cached is not cached now" in first


def test_hostile_texts_are_escaped(root: Path, visit: Open) -> None:
    tab = visit(on_disk(root, "evidence/index.html"))
    tab.unfold()
    assert tab.page.title().startswith("BuildKit v0.32.2 for linux-riscv64")
    assert tab.page.locator("script, img").count() == 0
    assert tab.page.locator("#standalone-4 pre").inner_text() == EVIL
    assert EVIL in tab.page.locator("details", has=tab.page.locator("#standalone-4")).inner_text()
    assert (tab.messages, tab.asked) == ([], [])


def test_commands_can_be_copied(root: Path, visit: Open) -> None:
    page = visit(on_disk(root, "repository/index.html"), PHONE).page
    url = "https://packages.example.org/of/all/of/us"
    assert page.locator("pre").first.inner_text().splitlines() == [
        f"sudo curl -fsSL -o /etc/apt/keyrings/buildkit.asc {url}/buildkit.asc",
        f"sudo curl -fsSL -o /etc/apt/sources.list.d/buildkit.sources {url}/deb/buildkit.sources",
        "sudo chmod 644 /etc/apt/keyrings/buildkit.asc /etc/apt/sources.list.d/buildkit.sources",
        "sudo apt update",
        "sudo apt install buildkit",
    ]


@pytest.mark.parametrize(
    "name", ["evidence/index.html", "repository/index.html", "site/index.html"]
)
def test_links_are_valid(root: Path, visit: Open, name: str) -> None:
    page = visit(on_disk(root, name)).page
    ids = set(page.locator("[id]").evaluate_all("all => all.map(one => one.id)"))
    links = page.locator("a[href]").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert len(links) > 1
    for link in links:
        path, _, anchor = link.partition("#")
        if link.startswith("#"):
            assert not anchor or anchor in ids, link
        # The files with data are not written here.
        elif not link.startswith("https://") and not path.endswith((".json", ".xml")):
            assert (root / name).parent.joinpath(path).is_file(), link


def search(page: Any, words: str) -> Any:
    """Type words into the site's search; return the links in the results."""
    page.locator("header label[for='__navigation']").click()
    page.locator("input.sidebar-search").fill(words)
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    return found


def test_search_works_offline(root: Path, visit: Open) -> None:
    tab = visit(on_disk(root, "site/index.html"), PHONE)
    tab.page.context.set_offline(True)
    # A title of a section may have the word, too.
    search(tab.page, "rootless").and_(tab.page.get_by_text("Rootless", exact=True)).click()
    tab.page.wait_for_url("**/rootless.html*")
    assert tab.page.locator("h1").inner_text().startswith("Rootless")
    assert (tab.messages, tab.asked) == ([], [])


def test_search_shows_excerpts_over_http(root: Path, visit: Open) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(root / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            tab = visit(f"http://127.0.0.1:{server.server_port}/", PHONE)
            search(tab.page, "rootless")
            excerpt = tab.page.locator("#search-results li p.context").first
            excerpt.wait_for()
            assert "rootless" in excerpt.inner_text().lower()
        finally:
            server.shutdown()
    assert tab.messages == []


def test_dark_mode_can_be_selected(root: Path, visit: Open) -> None:
    tab = visit(on_disk(root, "site/index.html"))
    light = tab.brightness()
    for _ in range(3):
        tab.page.locator("button.theme-toggle:visible").first.click()
        if tab.brightness() < 64 < 192 < light:
            return
    pytest.fail("the page stays light")
