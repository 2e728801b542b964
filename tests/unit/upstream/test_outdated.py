from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.core.errors import MissingRequirementError
from buildkit_riscv64.system import debian
from buildkit_riscv64.upstream import outdated
from buildkit_riscv64.upstream.github_client import Client
from buildkit_riscv64.upstream.outdated import Pin, State

from ... import fake_github as hubs
from ...fake_github import Hub, Repository, release

ACTION = "actions/checkout"
COMMIT = "3d3c42e5aac5ba805825da76410c181273ba90b1"

# From https://go.dev/dl/?mode=json, without the files.
GO = """[
 {"version": "go1.27.2", "stable": true, "files": []},
 {"version": "go1.26.11", "stable": true, "files": []},
 {"version": "go1.26rc3", "stable": false, "files": []}
]"""
RELEASE = """Origin: Debian
Label: Debian
Suite: stable
Version: 13.2
Codename: trixie
Date: Sat, 15 Nov 2025 11:12:13 UTC
"""


@pytest.fixture
def pages(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A fake go.dev and Debian archive; a removed page gives 404."""
    found = {"/dl/?mode=json": GO, "/debian/dists/stable/Release": RELEASE}

    class Handler(BaseHTTPRequestHandler):
        def log_request(self, *_args: object) -> None:
            pass

        def do_GET(self) -> None:
            text = found.get(self.path)
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(outdated, "GO_RELEASES", f"{address}/dl/?mode=json")
    monkeypatch.setattr(debian, "mirror", lambda: f"{address}/debian")
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def examine() -> dict[str, Pin]:
    with Client.connected() as client:
        return {pin.name: pin for pin in outdated.examine(client)}


def test_go_and_debian(hub: Hub, pages: dict[str, str]) -> None:
    assert examine() == {
        "Go": Pin("Go", "1.26.10", "1.26.11", State.BEHIND),
        "Debian": Pin("Debian", "trixie", "trixie", State.CURRENT),
    }


@pytest.mark.parametrize(
    ("version", "newest", "state"),
    [
        ("1.26.11", "1.26.11", State.CURRENT), ("1.26.12", "1.26.11", State.CURRENT),
        ("1.26.9", "1.26.11", State.BEHIND), ("1.27.0", "1.27.2", State.BEHIND),
        ("1.25.9", "", State.BEHIND), ("1.2.6", "", State.BEHIND),
    ],
)  # fmt: skip
def test_go_within_its_minor_version(
    hub: Hub, pages: dict[str, str], version: str, newest: str, state: State
) -> None:
    project.PINS.write_text(project.PINS.read_text().replace("1.26.10", version))
    found = examine()["Go"]
    assert (found.newest, found.state) == (newest, state)
    assert ("1.26.11" in found.detail) is (not newest)


def test_new_debian_release(hub: Hub, pages: dict[str, str]) -> None:
    pages["/debian/dists/stable/Release"] = RELEASE.replace("trixie", "forky")
    assert examine()["Debian"] == Pin("Debian", "trixie", "forky", State.BEHIND)


def test_machine_without_a_debian_archive(
    hub: Hub, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise MissingRequirementError("no Debian archive")

    monkeypatch.setattr(debian, "mirror", none)
    found = examine()
    assert found["Debian"] == Pin("Debian", "trixie", "", State.UNKNOWN, "no Debian archive")
    assert found["Go"].state is State.BEHIND


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("/dl/?mode=json", None), ("/dl/?mode=json", "<html>"), ("/dl/?mode=json", "[{}]"),
        ("/dl/?mode=json", "{}"), ("/dl/?mode=json", '[{"version": "go1.26x", "stable": true}]'),
        ("/debian/dists/stable/Release", None), ("/debian/dists/stable/Release", "<html>"),
    ],
)  # fmt: skip
def test_failed_check_is_unknown(
    hub: Hub, pages: dict[str, str], page: str, text: str | None
) -> None:
    if text is None:
        del pages[page]
    else:
        pages[page] = text
    states = {name: pin.state for name, pin in examine().items()}
    name = "Go" if "json" in page else "Debian"
    assert states[name] is State.UNKNOWN
    assert list(states.values()).count(State.UNKNOWN) == 1


def workflow(*lines: str) -> None:
    directory = project.ROOT / ".github" / "workflows"
    directory.mkdir(parents=True)
    (directory / "a.yml").write_text("\n".join(lines))
    (directory / "b.yml").write_text(lines[0])


def test_used_actions(checkout: Path) -> None:
    workflow(
        f"      - uses: {ACTION}@{COMMIT} # v7.0.1",
        f"        uses: me/a.b/sub/directory@{'0' * 40}  # v2",
        "      - uses: ./.github/actions/own", f"      - uses: {ACTION}@main",
    )  # fmt: skip
    assert outdated.used() == [(ACTION, COMMIT, "v7.0.1"), ("me/a.b", "0" * 40, "v2")]


@pytest.mark.parametrize(
    ("newest", "commit", "state"),
    [
        ("v7.0.1", COMMIT, State.CURRENT), ("v7.0.2", COMMIT, State.BEHIND),
        ("v7.0.1", "9" * 40, State.SUSPECT), ("codeql-bundle", COMMIT, State.UNKNOWN),
        (f"v{'9' * 5000}", COMMIT, State.UNKNOWN), ("v٣.٣.٢", COMMIT, State.UNKNOWN),
    ],
)  # fmt: skip
def test_action(hub: Hub, pages: dict[str, str], newest: str, commit: str, state: State) -> None:
    workflow(f"      - uses: {ACTION}@{COMMIT} # v7.0.1")
    hub.repositories[ACTION] = Repository(releases=[release(newest)], tags={"v7.0.1": commit})
    found = examine()[ACTION]
    assert (found.pinned, found.newest, found.state) == ("v7.0.1", newest, state)
    assert ("999999999999" in found.detail) is (state is State.SUSPECT)


def test_missing_action(hub: Hub, pages: dict[str, str]) -> None:
    workflow(f"      - uses: {ACTION}@{COMMIT} # v7.0.1")
    gone = examine()[ACTION]
    assert gone.state is State.SUSPECT
    for fact in ("v7.0.1", "3d3c42e5aac5"):
        assert fact in gone.detail
    hub.moods.append((ACTION, hubs.NOT_PERMITTED))
    assert examine()[ACTION].state is State.UNKNOWN
