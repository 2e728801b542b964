"""Releases by a real gh and a real GnuPG, on a GitHub that is on loopback."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, process, project
from buildkit_riscv64.automation import release as releases
from buildkit_riscv64.automation import signing
from buildkit_riscv64.automation.release import Options
from buildkit_riscv64.errors import MismatchError, NetworkError

from .. import hub as hubs
from ..hub import Hub
from ..processes import eventually

# What a release is made of is made as in the unit tests; what is done with it is real.
from ..unit.automation.conftest import releasable  # noqa: F401
from ..unit.conftest import checkout, complete_dist, finished, found, on, pristine, publish  # noqa: F401
from ..unit.making import edit_manifest
from ..unit.validation.scenes import TARGET
from .keys import Keyring

pytestmark = pytest.mark.integration

TAG = "v0.32.2"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, key: str, tmp_path: Path) -> Iterator[Hub]:
    """A GitHub that gh finds too: that name, and no other, is asked without TLS, by a proxy."""
    with Hub().running() as started:
        for name, value in {
            **started.environment(), signing.KEY: key, "GH_HOST": "github.localhost",
            "GH_CONFIG_DIR": str(tmp_path / "gh"), "HTTP_PROXY": started.address,
            "NO_PROXY": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield started


def run() -> releases.Outcome:
    return releases.release(Options(target=TARGET, yes=True))


def test_a_release_that_anybody_can_verify(releasable: Path, hub: Hub, ring: Keyring, tmp_path: Path) -> None:  # noqa: F811 # fmt: skip
    made = run()
    assert (made.state, made.latest) == ("released", True)
    (published,) = hub.ours.releases
    assert (published["tag_name"], published["draft"], published["name"]) == (TAG, False, "BuildKit v0.32.2 for riscv64")  # fmt: skip
    assert "proved to work there" in published["body"]
    # As somebody who downloads it does.
    for name, content in hub.uploaded.items():
        (tmp_path / name).write_bytes(content)
    assert {*hub.uploaded} == {
        *(file["name"] for file in made.description["files"]), dist.SUMS, releases.SIGNATURE
    }  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", dist.SUMS], cwd=tmp_path, check=True)  # fmt: skip
    assert ring.verifies(tmp_path / releases.SIGNATURE, tmp_path / dist.SUMS)
    assert made.description["key"] in ring.gpg("--with-colons", "--show-keys", tmp_path / releases.PUBLIC_KEY)  # fmt: skip


def test_the_same_again_and_other_bytes(releasable: Path, hub: Hub) -> None:  # noqa: F811
    run()
    changes = len(hub.changes)
    assert run().state == "released before"
    edit_manifest(releasable, lambda made: made["host"].update(cpus=64))
    with pytest.raises(MismatchError, match=r"released with other bytes: .*manifest\.json"):
        run()
    assert len(hub.changes) == changes


def test_github_breaks_in_the_middle(releasable: Path, hub: Hub) -> None:  # noqa: F811
    hub.moods += [("POST .*/assets", hubs.NOT_PERMITTED)] * 40
    with pytest.raises(NetworkError, match="gh release create"):
        run()
    assert not [one for one in hub.ours.releases if not one["draft"]]
    assert not (releasable / dist.RELEASE).exists()
    hub.moods.clear()
    assert run().state == "released"
    assert [one["draft"] for one in hub.ours.releases] == [False]


def test_killed_in_the_middle(releasable: Path, hub: Hub) -> None:  # noqa: F811
    seen = multiprocessing.get_context("fork").Event()

    def stop(request: str) -> None:
        if re.match(r"POST .*/assets", request):
            seen.set()
            # As long as it lives.
            eventually(lambda: not child.is_alive())

    hub.before = stop
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    assert seen.wait(60)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert eventually(lambda: not _ghs())
    hub.before = lambda _request: None
    assert [one["draft"] for one in hub.ours.releases] == [True]
    assert run().state == "released"
    assert [one["draft"] for one in hub.ours.releases] == [False]
    assert not list(project.DIST.glob(".*staging*"))


def _ghs() -> list[str]:
    listed = process.probe(["ps", "-eo", "args"]).stdout.splitlines()
    return [line for line in listed if line.startswith("gh release create")]
