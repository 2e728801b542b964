"""`invoke push-image` with real images, small ones, and a real registry."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.image import layout
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.loopback import LOOPBACK, free_port
from buildkit_riscv64.validation.environment.registry import (
    PASSWORD,
    USERNAME,
    Fault,
    FaultyProxy,
    Registry,
    proxy_to,
    running,
)
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import BOUND

from ..unit.image_factories import make_image
from .miniature import Done, Project, isolated, path_with, refused, succeeded

pytestmark = [pytest.mark.integration, pytest.mark.needs("loopback", "skopeo")]

RELEASE = ["v0.32.2", "v0.32", "latest"]
NAME = "me/buildkit"
#: More than a client writes at once, and more than the failures below let through.
PAYLOAD = random.Random(0).randbytes(24 << 20)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of this project without artifacts."""
    directory = tmp_path_factory.mktemp("publisher") / "checkout"
    copy_checkout(directory)
    return directory


@pytest.fixture
def publisher(checkout: Path, tmp_path: Path) -> Iterator[Project]:
    """A user with that checkout, whose runs must leave nothing."""
    (tmp_path / "tmp").mkdir()
    project = Project(checkout, isolated(tmp_path) | {"TMPDIR": str(tmp_path / "tmp")})
    yield project
    project.no_strays()
    shutil.rmtree(project.dist)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture
@needs("debian", "mmdebstrap", "namespaces")
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def proxy(registry: Registry) -> Iterator[FaultyProxy]:
    with proxy_to(registry) as started:
        yield started


def push(publisher: Project, host: str, *args: str, **options: Any) -> Done:
    return publisher.invoke("push-image", "--registry", f"{host}/{NAME}", *args, **options)


def copy(source: str, directory: Path, tag: str) -> str:
    """Copy a tag unchanged, verify every blob, and return the digest."""
    done = subprocess.run(
        [
            "skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests",
            "--src-tls-verify=false", "--dest-oci-accept-uncompressed-layers",
            f"{source}:{tag}", f"oci:{directory}:{tag}",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    return verified_digests(directory)[tag]


def pull(registry: Registry, tag: str, directory: Path) -> str:
    """Copy a tag from the registry, and return the digest."""
    return copy(f"docker://{registry.host}/{NAME}", directory, tag)


def verified_digests(directory: Path) -> dict[str, str]:
    """The digests of a layout by name, after verifying every blob."""
    named = layout.names(directory)
    for digest in layout._reachable(directory, named.values()):
        assert f"sha256:{filesystem.sha256(layout.blob(directory, digest))}" == digest
    return {name: str(one["digest"]) for name, one in named.items()}


def tags(registry: Registry) -> list[str]:
    """The tags in the registry's own storage."""
    return sorted(path.name for path in registry.storage.glob("**/_manifests/tags/*"))


def states(done: Done) -> dict[str, str]:
    return {tag["name"]: tag["state"] for tag in succeeded(done).json["tags"]}


def sent(proxy: FaultyProxy) -> list[str]:
    """Requests that write."""
    return [one for one in proxy.requests if not one.startswith(("GET", "HEAD"))]


def hold(proxy: FaultyProxy) -> tuple[threading.Event, threading.Event]:
    """Hold the next large upload; the events of its start and its release."""
    reached, release = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        release.wait(BOUND)

    proxy.faults.append(Fault("PATCH", after=4 << 20, then=wait))
    return reached, release


def test_pushed_images_can_be_pulled(
    publisher: Project, registry: Registry, tmp_path: Path
) -> None:
    for target in ("linux-amd64", "linux-riscv64"):
        for variant in ("root", "rootless"):
            make_image(publisher.dist, target, variant)
    done = succeeded(push(publisher, registry.host, "--json"))
    pushed = {tag["name"]: tag["digest"] for tag in done.json["tags"]}
    assert list(pushed) == [f"{tag}{suffix}" for tag in RELEASE for suffix in ("", "-rootless")]
    assert tags(registry) == sorted(pushed)
    for tag, digest in pushed.items():
        assert pull(registry, tag, tmp_path / tag) == digest
    for variant, tag in (("root", "latest"), ("rootless", "latest-rootless")):
        index = json.loads(layout.blob(tmp_path / tag, pushed[tag]).read_text())
        found = {one["platform"]["architecture"]: one["digest"] for one in index["manifests"]}
        assert found == {
            arch: dist.load(publisher.dist / f"linux-{arch}/image/{variant}").manifest["digest"]
            for arch in ("amd64", "riscv64")
        }
    assert f"docker pull {registry.host}/{NAME}:v0.32.2" in done.stderr


def test_one_platform_needs_no_index(
    publisher: Project, registry: Registry, tmp_path: Path
) -> None:
    directory = make_image(publisher.dist)
    succeeded(push(publisher, registry.host))
    assert pull(registry, "latest", tmp_path / "pulled") == dist.load(directory).manifest["digest"]


def test_second_push_sends_nothing(
    publisher: Project, registry: Registry, proxy: FaultyProxy
) -> None:
    make_image(publisher.dist)
    assert states(push(publisher, proxy.host, "--json")) == dict.fromkeys(RELEASE, "pushed")
    proxy.requests.clear()
    assert states(push(publisher, proxy.host, "--json")) == dict.fromkeys(RELEASE, "already there")
    assert proxy.requests
    assert not sent(proxy)


def test_existing_layers_are_not_sent(publisher: Project, proxy: FaultyProxy) -> None:
    make_image(publisher.dist, payload=PAYLOAD)
    succeeded(push(publisher, proxy.host))
    make_image(publisher.dist, "linux-amd64")
    proxy.requests.clear()
    assert states(push(publisher, proxy.host, "--force", "--json"))["latest"] == "pushed"
    # Only the layer and the configuration of the new platform.
    assert sum(one.startswith("PATCH") for one in sent(proxy)) == 2


def test_release_tag_does_not_move(publisher: Project, registry: Registry, tmp_path: Path) -> None:
    first = dist.load(make_image(publisher.dist)).manifest["digest"]
    succeeded(push(publisher, registry.host))
    second = dist.load(make_image(publisher.dist, payload=b"changed")).manifest["digest"]
    refused(push(publisher, registry.host), 8, ":v0.32.2", first, second)
    assert pull(registry, "latest", tmp_path / "before") == first
    succeeded(push(publisher, registry.host, "--force"))
    assert pull(registry, "v0.32.2", tmp_path / "after") == second


def test_latest_only_moves_forward(publisher: Project, registry: Registry, tmp_path: Path) -> None:
    def release(version: str) -> dict[str, str]:
        make_image(publisher.dist, version=version)
        return states(push(publisher, registry.host, "--json"))

    assert release("v0.32.9") == {"v0.32.9": "pushed", "v0.32": "pushed", "latest": "pushed"}
    assert release("v0.32.10") == {"v0.32.10": "pushed", "v0.32": "pushed", "latest": "pushed"}
    newest = pull(registry, "latest", tmp_path / "newest")
    assert release("v0.32.2") == {"v0.32.2": "pushed", "v0.32": "not moved", "latest": "not moved"}
    assert release("v0.31.7") == {"v0.31.7": "pushed", "v0.31": "pushed", "latest": "not moved"}
    make_image(publisher.dist, version="v0.33.0-rc1", pinned=False)
    assert states(push(publisher, registry.host, "--json")) == {"main-20260804": "pushed"}
    assert pull(registry, "latest", tmp_path / "latest") == newest


def test_images_of_several_builds(publisher: Project, registry: Registry) -> None:
    make_image(publisher.dist)
    make_image(publisher.dist, "linux-amd64", version="v0.32.1")
    refused(push(publisher, registry.host), 7, "v0.32.1", "v0.32.2")
    assert not tags(registry)


def test_dry_changes_nothing(publisher: Project, registry: Registry, proxy: FaultyProxy) -> None:
    make_image(publisher.dist, version="v0.33.0")
    succeeded(push(publisher, proxy.host))
    proxy.requests.clear()
    make_image(publisher.dist)
    before = sorted(publisher.dist.rglob("*"))
    done = succeeded(publisher.invoke("--dry", "push-image", "--registry", f"{proxy.host}/{NAME}"))
    for words in ("would be pushed", "not moved (v0.33.0 is there)", "nothing was pushed"):
        assert words in done.stderr
    assert proxy.requests
    assert not sent(proxy)
    assert sorted(publisher.dist.rglob("*")) == before


@pytest.mark.parametrize(
    "repository", ["https://ghcr.io/x", "ghcr.io/x:v1", "me/x", "ghcr.io/X", "--force/x", "me:pw@x/y"]
)  # fmt: skip
def test_invalid_repository(publisher: Project, repository: str) -> None:
    make_image(publisher.dist)
    done = publisher.invoke("push-image", f"--registry={repository}")
    refused(done, 2)
    assert "pw" not in done.stderr


def test_nothing_to_push(publisher: Project) -> None:
    publisher.dist.mkdir()
    refused(publisher.invoke("push-image"), 7, "no image in dist/")


# Credentials.


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Registry]:
    """A registry that requires a name and a password."""
    with running(tmp_path / "closed", auth=True) as started:
        yield started


def log_in(directory: Path, registry: Registry, password: str) -> None:
    """Write the configuration like `docker login`."""
    auth = base64.b64encode(f"{USERNAME}:{password}".encode()).decode()
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))


@pytest.mark.parametrize("password", ["", "wrong-horse"])
def test_wrong_credentials(publisher: Project, closed: Registry, password: str) -> None:
    make_image(publisher.dist)
    if password:
        log_in(Path(publisher.env["HOME"]) / ".docker", closed, password)
    done = push(publisher, closed.host)
    refused(done, 10, closed.host, NAME, "authentication required")
    assert f"docker login {closed.host}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, done
    assert not password or password not in done.stderr
    assert not tags(closed)


def test_docker_credentials(publisher: Project, closed: Registry) -> None:
    make_image(publisher.dist)
    log_in(Path(publisher.env["HOME"]) / ".docker", closed, PASSWORD)
    succeeded(push(publisher, closed.host))
    assert tags(closed) == sorted(RELEASE)


def test_docker_config_variable(publisher: Project, closed: Registry, tmp_path: Path) -> None:
    make_image(publisher.dist)
    log_in(tmp_path / "elsewhere", closed, PASSWORD)
    succeeded(push(publisher, closed.host, env={"DOCKER_CONFIG": str(tmp_path / "elsewhere")}))


def test_credential_helper(publisher: Project, closed: Registry, tmp_path: Path) -> None:
    make_image(publisher.dist)
    known = json.dumps({"Username": USERNAME, "Secret": PASSWORD})
    script(tmp_path / "bin/docker-credential-vault", f"echo '{known}'")
    config = tmp_path / "elsewhere/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"credHelpers": {closed.host: "vault"}}))
    path = f"{tmp_path / 'bin'}:{publisher.env['PATH']}"
    succeeded(push(publisher, closed.host, env={"DOCKER_CONFIG": str(config.parent), "PATH": path}))


def test_password_stays_secret(publisher: Project, closed: Registry, tmp_path: Path) -> None:
    make_image(publisher.dist)
    real = shutil.which("skopeo")
    spy = f'{{ echo "$@"; env; }} >> {tmp_path}/seen\nexec {real} "$@"'
    script(tmp_path / "bin/skopeo", spy)
    env = {
        "REGISTRY_USERNAME": USERNAME, "REGISTRY_PASSWORD": PASSWORD,
        "PATH": f"{tmp_path / 'bin'}:{publisher.env['PATH']}",
    }  # fmt: skip
    done = succeeded(push(publisher, closed.host, "--json", env=env))
    seen = done.stdout + done.stderr + (tmp_path / "seen").read_text()
    encoded = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    assert "copy" in seen
    for secret in (PASSWORD, encoded):
        assert secret not in seen


# Failures.


def test_missing_registry(publisher: Project) -> None:
    make_image(publisher.dist)
    for host, reason in ((f"{LOOPBACK}:{free_port()}", "refused"), ("registry.invalid", "")):
        done = push(publisher, host)
        refused(done, 10, host, reason)
        assert "trying again" not in done.stderr


def test_killed_registry(
    publisher: Project, registry: Registry, proxy: FaultyProxy, tmp_path: Path
) -> None:
    directory = make_image(publisher.dist, payload=PAYLOAD)

    def die() -> None:
        registry.kill()
        threading.Timer(4, registry.start).start()

    proxy.faults.append(Fault("PATCH", after=8 << 20, then=die))
    done = succeeded(push(publisher, proxy.host))
    assert not proxy.faults[0].times
    assert "trying again in 1 s" in done.stderr
    for tag in RELEASE:
        assert pull(registry, tag, tmp_path / tag) == dist.load(directory).manifest["digest"]


def test_broken_connections(
    publisher: Project, registry: Registry, proxy: FaultyProxy, tmp_path: Path
) -> None:
    make_image(publisher.dist, payload=PAYLOAD)
    directory = make_image(publisher.dist, "linux-amd64", payload=PAYLOAD)
    proxy.faults += [
        Fault("PATCH", times=2, after=4 << 20),
        Fault("PUT .*/manifests/sha256:", after=1),
        Fault("PUT .*/manifests/v0.32.2", after=1),
    ]
    succeeded(push(publisher, proxy.host))
    assert not any(fault.times for fault in proxy.faults)
    pull(registry, "latest", tmp_path / "pulled")
    digest = dist.load(directory).manifest["digest"]
    assert layout.blob(tmp_path / "pulled", digest).exists()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET .*/tags/list", 429), ("GET .*/manifests/v0.32.2", 503), ("HEAD .*/blobs/", 502),
        ("POST .*/uploads/", 429), ("PATCH", 500), ("PUT .*/manifests/latest", 429),
    ],
)  # fmt: skip
def test_busy_registry(
    publisher: Project,
    registry: Registry,
    proxy: FaultyProxy,
    request_: str,
    status: int,
    tmp_path: Path,
) -> None:
    directory = make_image(publisher.dist)
    headers = {"Retry-After": "1"} if status == 429 else {}
    proxy.faults.append(Fault(request_, status=status, headers=headers))
    succeeded(push(publisher, proxy.host))
    assert not proxy.faults[0].times
    assert pull(registry, "latest", tmp_path / "pulled") == dist.load(directory).manifest["digest"]


def test_refusals_are_not_retried(
    publisher: Project, registry: Registry, proxy: FaultyProxy
) -> None:
    make_image(publisher.dist)
    proxy.faults.append(Fault("PUT .*/manifests/v0.32.2", times=99, status=403))
    refused(push(publisher, proxy.host), 10, NAME)
    assert proxy.faults[0].times == 98
    assert not tags(registry)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(
    publisher: Project,
    registry: Registry,
    proxy: FaultyProxy,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    directory = make_image(publisher.dist, payload=PAYLOAD)
    reached, release = hold(proxy)
    with publisher.started("push-image", "--registry", f"{proxy.host}/{NAME}") as run:
        assert reached.wait(BOUND), run.output()
        done = run.end(number)
    release.set()
    if number is not signal.SIGKILL:
        refused(done, 130, "interrupted")
        assert not list(publisher.dist.glob(".*staging*"))
    publisher.no_strays()
    assert not tags(registry)
    succeeded(push(publisher, proxy.host))
    assert pull(registry, "latest", tmp_path / "pulled") == dist.load(directory).manifest["digest"]
    assert not list(publisher.dist.glob(".*staging*"))


def test_concurrent_push_is_refused(publisher: Project, proxy: FaultyProxy) -> None:
    make_image(publisher.dist, payload=PAYLOAD)
    reached, release = hold(proxy)
    with publisher.started("push-image", "--registry", f"{proxy.host}/{NAME}") as run:
        assert reached.wait(BOUND), run.output()
        refused(publisher.invoke("push-image"), 11, "linux-riscv64")
        release.set()
        assert run.wait().code == 0


# Without a registry.


def test_push_to_a_layout_needs_no_tools(publisher: Project, tmp_path: Path) -> None:
    for target in ("linux-amd64", "linux-riscv64"):
        make_image(publisher.dist, target)
    done = succeeded(publisher.invoke("push-image", env={"PATH": path_with(tmp_path / "empty")}))
    assert "oci:dist/oci" in done.stderr
    digests = verified_digests(publisher.dist / "oci")
    assert list(digests) == RELEASE
    fetched = copy(f"oci:{publisher.dist / 'oci'}", tmp_path / "copy", "latest")
    assert fetched == digests["latest"]


def test_killed_push_keeps_the_layout(publisher: Project) -> None:
    make_image(publisher.dist, version="v0.32.1", payload=PAYLOAD)
    succeeded(publisher.invoke("push-image"))
    old = verified_digests(publisher.dist / "oci")
    make_image(publisher.dist, payload=PAYLOAD[::-1])
    moments = random.Random(1)
    for _ in range(6):
        with publisher.started("push-image") as run:
            run.wait_for("checking the images: ")
            time.sleep(moments.uniform(0, 0.1))
            os.kill(run.process.pid, signal.SIGKILL)
            run.wait()
        found = verified_digests(publisher.dist / "oci")
        assert found == old or list(found) == [*old, "v0.32.2"]
    succeeded(publisher.invoke("push-image"))
    assert set(verified_digests(publisher.dist / "oci")) == {*RELEASE, "v0.32.1"}
    assert not list(publisher.dist.rglob(".*staging*"))
    assert not list((publisher.dist / "oci/blobs").rglob(".*"))
