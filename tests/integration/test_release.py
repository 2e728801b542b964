"""Releases with gh and GnuPG on a fake GitHub on the loopback."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import verify
from buildkit_riscv64.core import dist, project
from buildkit_riscv64.core.errors import CheckError, MismatchError, NetworkError
from buildkit_riscv64.packages import signing
from buildkit_riscv64.release import release as releases
from buildkit_riscv64.release.release import ReleaseOptions
from buildkit_riscv64.release.verification import verify_release
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .. import fake_github as hubs
from ..fake_github import Hub
from ..unit.conftest import checkout, complete_dist, finished, found, on, pristine, publish  # noqa: F401
from ..unit.factories import edit_manifest

# The artifacts are those of the unit tests.
from ..unit.phase4 import releasable  # noqa: F401
from ..unit.validation.factories import TARGET
from .keys import Keyring
from .miniature import processes_of

pytestmark = pytest.mark.integration

TAG = "v0.32.2"


@pytest.fixture
@needs("loopback", "gh")
def hub(monkeypatch: pytest.MonkeyPatch, key: str, tmp_path: Path) -> Iterator[Hub]:
    """A fake GitHub that gh reaches without TLS: by its host name, through a proxy."""
    with Hub().running() as started:
        for name, value in {
            **started.environment(), signing.KEY: key, "GH_HOST": "github.localhost",
            "GH_CONFIG_DIR": str(tmp_path / "gh"), "HTTP_PROXY": started.address,
            "NO_PROXY": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield started


def run() -> releases.ReleaseResult:
    return releases.release(ReleaseOptions(target=TARGET, yes=True))


def test_verify_a_release(
    releasable: Path,  # noqa: F811
    hub: Hub,
    ring: Keyring,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tmp_path = tmp_path_factory.mktemp("downloaded")
    outcome = run()
    assert (outcome.state, outcome.latest) == ("released", True)
    (published,) = hub.ours.releases
    assert (published["tag_name"], published["draft"], published["name"]) == (TAG, False, "BuildKit v0.32.2 for riscv64")  # fmt: skip
    assert "validated natively" in published["body"]
    # Verify as a user does.
    for name, content in hub.uploaded.items():
        (tmp_path / name).write_bytes(content)
    assert {*hub.uploaded} == {
        *(file["name"] for file in outcome.description["files"]), dist.SUMS, releases.SIGNATURE
    }  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", dist.SUMS], cwd=tmp_path, check=True)  # fmt: skip
    assert ring.verifies(tmp_path / releases.SIGNATURE, tmp_path / dist.SUMS)
    key = outcome.description["key"]
    assert key in ring.gpg("--with-colons", "--show-keys", tmp_path / releases.PUBLIC_KEY)
    # The unit tests compile nothing, so their programs are compared by the verdict.
    verdict = json.loads((releasable / dist.VERDICT).read_text())
    monkeypatch.setattr(verify, "compile_again", lambda *_: verdict)
    verified = verify_release(str(tmp_path), fingerprint=key)
    assert (verified.fingerprint, verified.verdict) == (key, verdict)
    # Another key signs the same files.
    other = ring.make("Somebody else <else@example.org>")
    signature = tmp_path / releases.SIGNATURE
    signature.unlink()
    ring.gpg("--armor", "--local-user", other, "--detach-sign", "--output", signature, tmp_path / dist.SUMS)  # fmt: skip
    with pytest.raises(CheckError, match="signature"):
        verify_release(str(tmp_path))
    (tmp_path / releases.PUBLIC_KEY).write_text(ring.public(other))
    with pytest.raises(CheckError, match=releases.PUBLIC_KEY):
        verify_release(str(tmp_path))


def test_release_again_and_with_different_content(releasable: Path, hub: Hub) -> None:  # noqa: F811
    run()
    changes = len(hub.changes)
    assert run().state == "released before"
    edit_manifest(releasable, lambda m: m["host"].update(cpus=64))
    with pytest.raises(MismatchError, match=r"v0\.32\.2 .*manifest\.json"):
        run()
    assert len(hub.changes) == changes


def test_github_fails_during_the_upload(releasable: Path, hub: Hub) -> None:  # noqa: F811
    hub.moods += [("POST .*/assets", hubs.NOT_PERMITTED)] * 40
    with pytest.raises(NetworkError, match="gh release create"):
        run()
    assert not [one for one in hub.ours.releases if not one["draft"]]
    assert not (releasable / dist.RELEASE).exists()
    hub.moods.clear()
    assert run().state == "released"
    assert [one["draft"] for one in hub.ours.releases] == [False]


def test_release_is_killed_during_the_upload(releasable: Path, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    seen = multiprocessing.get_context("fork").Event()

    def stop(request: str) -> None:
        if re.match(r"POST .*/assets", request):
            seen.set()
            # Blocks until the child is killed.
            eventually(lambda: not child.is_alive())

    hub.before = stop
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    assert seen.wait(BOUND)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert eventually(lambda: not processes_of(tmp_path))
    hub.before = lambda _request: None
    assert [one["draft"] for one in hub.ours.releases] == [True]
    assert run().state == "released"
    assert [one["draft"] for one in hub.ours.releases] == [False]
    assert not list(project.DIST.glob(".*staging*"))
