from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from buildkit_riscv64 import debian, project
from buildkit_riscv64.automation import pinned
from buildkit_riscv64.automation.api import Client
from buildkit_riscv64.automation.pinned import Pin, State
from buildkit_riscv64.errors import MissingRequirementError

from ... import hub as hubs
from ...hub import Hub, Repository, release

ACTION = "actions/checkout"
COMMIT = "3d3c42e5aac5ba805825da76410c181273ba90b1"

# As of https://go.dev/dl/?mode=json, but for the files.
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
    """What go.dev and Debian's archive have; what is removed is not there."""
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
    monkeypatch.setattr(pinned, "GO_RELEASES", f"{address}/dl/?mode=json")
    monkeypatch.setattr(debian, "mirror", lambda: f"{address}/debian")
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def examine() -> dict[str, Pin]:
    with Client.connected(dry=True) as client:
        return {pin.name: pin for pin in pinned.examine(client)}


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
def test_go_within_its_line(hub: Hub, pages: dict[str, str], version: str, newest: str, state: State) -> None:  # fmt: skip
    project.PINS.write_text(project.PINS.read_text().replace("1.26.10", version))
    found = examine()["Go"]
    assert (found.newest, found.state) == (newest, state)
    assert ("the oldest that is has 1.26.11" in found.detail) is (not newest)


def test_a_new_debian(hub: Hub, pages: dict[str, str]) -> None:
    pages["/debian/dists/stable/Release"] = RELEASE.replace("trixie", "forky")
    assert examine()["Debian"] == Pin("Debian", "trixie", "forky", State.BEHIND)


def test_a_machine_that_is_no_debian(hub: Hub, pages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
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
def test_what_cannot_be_found_out_stands_in_nothing_s_way(hub: Hub, pages: dict[str, str], page: str, text: str | None) -> None:  # fmt: skip
    if text is None:
        del pages[page]
    else:
        pages[page] = text
    states = {name: pin.state for name, pin in examine().items()}
    name = "Go" if "json" in page else "Debian"
    assert states[name] is State.UNKNOWN
    assert list(states.values()).count(State.UNKNOWN) == 1


def workflow(*lines: str) -> None:
    folder = project.ROOT / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "a.yml").write_text("\n".join(lines))
    (folder / "b.yml").write_text(lines[0])


def test_actions_are_found(checkout: Path) -> None:
    workflow(
        f"      - uses: {ACTION}@{COMMIT} # v7.0.1",
        f"        uses: me/a.b/sub/folder@{'0' * 40}  # v2",
        "      - uses: ./.github/actions/own", f"      - uses: {ACTION}@main",
    )  # fmt: skip
    assert pinned.used() == [(ACTION, COMMIT, "v7.0.1"), ("me/a.b", "0" * 40, "v2")]


@pytest.mark.parametrize(
    ("newest", "commit", "state"),
    [
        ("v7.0.1", COMMIT, State.CURRENT), ("v7.0.2", COMMIT, State.BEHIND),
        ("v7.0.1", "9" * 40, State.SUSPECT), ("codeql-bundle", COMMIT, State.UNKNOWN),
    ],
)  # fmt: skip
def test_an_action(hub: Hub, pages: dict[str, str], newest: str, commit: str, state: State) -> None:  # fmt: skip
    workflow(f"      - uses: {ACTION}@{COMMIT} # v7.0.1")
    hub.repositories[ACTION] = Repository(releases=[release(newest)], tags={"v7.0.1": commit})
    found = examine()[ACTION]
    assert (found.pinned, found.newest, found.state) == ("v7.0.1", newest, state)
    assert ("is 999999999999 now" in found.detail) is (state is State.SUSPECT)


def test_an_action_that_is_gone(hub: Hub, pages: dict[str, str]) -> None:
    workflow(f"      - uses: {ACTION}@{COMMIT} # v7.0.1")
    gone = examine()[ACTION]
    assert (gone.state, gone.detail) == (State.SUSPECT, "v7.0.1 is gone, pinned as 3d3c42e5aac5")
    hub.moods.append((ACTION, hubs.NOT_PERMITTED))
    assert examine()[ACTION].state is State.UNKNOWN
