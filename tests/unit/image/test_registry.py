from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import process
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.errors import NetworkError, UsageError
from buildkit_riscv64.image import layout, registry
from buildkit_riscv64.image.registry import Reference, Registry

from ..making import Commands

HOST = "registry.example"
SECRET = "open-sesame"
REFUSED = "pinging container registry registry.example: dial tcp: connect: connection refused"


def fatal(text: str) -> str:
    """As skopeo logs it."""
    return f'time="2026-11-23T10:28:31Z" level=fatal msg="{text}"\n'


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees who the user is."""
    for name in (registry.USERNAME, registry.PASSWORD, "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def remote() -> Registry:
    return Registry(Reference.parse(f"{HOST}/me/buildkit"), "/authfile")


@pytest.mark.parametrize(
    ("text", "host", "repository"),
    [
        ("ghcr.io/me/buildkit", "ghcr.io", "me/buildkit"),
        ("localhost/x", "localhost", "x"),
        ("localhost:5000/x", "localhost:5000", "x"),
        ("registry:5000/a/b/c", "registry:5000", "a/b/c"),
        ("127.0.0.1:5000/a.b_c__d--e/f", "127.0.0.1:5000", "a.b_c__d--e/f"),
        ("my-host.example:65535/x", "my-host.example:65535", "x"),
    ],
)
def test_repositories(text: str, host: str, repository: str) -> None:
    reference = Reference.parse(text)
    assert (reference.host, reference.repository, reference.name) == (host, repository, text)


@pytest.mark.parametrize(
    "text",
    [
        "x", "ghcr.io", "ghcr.io/", "/x", "https://ghcr.io/me/x", "docker://ghcr.io/me/x",
        "ghcr.io/me/x:v1", "ghcr.io:v1", f"ghcr.io/x@sha256:{'0' * 64}", "ghcr.io/Me/x",
        "GHCR.io/me/x", "-ghcr.io/x", "--tls-verify=false/x", "ghcr.io/-x", "ghcr.io/x-",
        "ghcr.io//x", "ghcr.io/x/", "ghcr.io/a..b", "ghcr.io/a/../b", "ghcr.io/x y", "ghcr.io/x\n",
        "ghcr.io:0/x", "ghcr.io:65536/x", "ghcr.io:/x", "ghcr.io:port/x", "[::1]:5000/x",
        "me/buildkit", "..", "", f"ghcr.io/{'x' * 250}", "ghcr.io/é", "$(id).io/x",
    ],
)  # fmt: skip
def test_what_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Reference.parse(text)
    assert error.value.hint


def test_a_user_at_docker_hub_is_told_what_is_missing() -> None:
    with pytest.raises(UsageError) as error:
        Reference.parse("me/buildkit")
    assert "docker.io/me/buildkit" in error.value.hint


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UsageError) as error:
        Reference.parse(f"me:{SECRET}@ghcr.io/me/x")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True),
        ("127.8.9.1:5000", True), ("127.0.0.1.example", False), ("localhost.example", False),
        ("10.0.0.1:5000", False), ("registry:5000", False), ("128.0.0.1", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_local(host: str, local: bool) -> None:
    assert Reference(host, "x").is_local is local


def docker_config(folder: Path, config: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def encoded(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def test_nobody_is_anonymous() -> None:
    assert registry.login(HOST) == {}


def test_who_docker_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {"auths": {HOST: {"auth": encoded("me", SECRET)}}}
    docker_config(Path.home() / ".docker", known)
    assert registry.login(HOST) == {"auth": encoded("me", SECRET)}
    assert registry.login("other.example") == {}
    docker_config(tmp_path / "elsewhere", {"auths": {HOST: {"auth": encoded("you", "x")}}})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    assert registry.login(HOST) == {"auth": encoded("you", "x")}


def test_docker_hub_by_its_old_name() -> None:
    known = {"auths": {"https://index.docker.io/v1/": {"auth": encoded("me", SECRET)}}}
    docker_config(Path.home() / ".docker", known)
    assert registry.login("docker.io") == {"auth": encoded("me", SECRET)}


def test_a_token_that_docker_has() -> None:
    entry = {"auth": encoded("<token>", ""), "identitytoken": SECRET}
    docker_config(Path.home() / ".docker", {"auths": {HOST: entry}})
    assert registry.login(HOST) == entry


def helper(script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = script("bin/docker-credential-vault", body)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("config", [{"credsStore": "vault"}, {"credHelpers": {HOST: "vault"}}])
def test_credential_helpers(script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, config: Any) -> None:  # fmt: skip
    helper(script, monkeypatch, f'test "$(cat)" = {HOST} && echo \'{{"Username": "me", "Secret": "{SECRET}"}}\'')  # fmt: skip
    docker_config(Path.home() / ".docker", config)
    assert registry.login(HOST) == {"auth": encoded("me", SECRET)}


def test_a_token_of_a_helper(script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    helper(script, monkeypatch, f'echo \'{{"Username": "<token>", "Secret": "{SECRET}"}}\'')
    docker_config(Path.home() / ".docker", {"credsStore": "vault"})
    assert registry.login(HOST) == {"auth": encoded("<token>", ""), "identitytoken": SECRET}


@pytest.mark.parametrize("body", ["echo locked; exit 1", "echo '{'"])
def test_a_helper_that_fails(script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, body: str) -> None:  # fmt: skip
    helper(script, monkeypatch, body)
    docker_config(Path.home() / ".docker", {"credsStore": "vault"})
    with pytest.raises(UsageError, match=HOST) as error:
        registry.login(HOST)
    assert error.value.hint == f"docker login {HOST}"


def test_a_helper_that_is_not_there() -> None:
    docker_config(Path.home() / ".docker", {"credsStore": "no-such-vault"})
    with pytest.raises(UsageError, match="docker-credential-no-such-vault"):
        registry.login(HOST)


def test_the_environment_beats_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    docker_config(Path.home() / ".docker", {"auths": {HOST: {"auth": encoded("me", "x")}}})
    monkeypatch.setenv(registry.USERNAME, "robot")
    monkeypatch.setenv(registry.PASSWORD, SECRET)
    assert registry.login(HOST) == {"auth": encoded("robot", SECRET)}


@pytest.mark.parametrize(
    ("given", "missing"),
    [(registry.USERNAME, registry.PASSWORD), (registry.PASSWORD, registry.USERNAME)],
)
def test_half_an_environment(monkeypatch: pytest.MonkeyPatch, given: str, missing: str) -> None:
    monkeypatch.setenv(given, SECRET)
    with pytest.raises(UsageError, match=f"{missing} is not set") as error:
        registry.login(HOST)
    assert SECRET not in str(error.value)


def test_the_authfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.USERNAME, "robot")
    monkeypatch.setenv(registry.PASSWORD, SECRET)
    with registry.authfile(HOST) as path:
        for _ in range(2):
            content = json.loads(process.read(["cat", path]))
            assert content == {"auths": {HOST: {"auth": encoded("robot", SECRET)}}}
        assert str(Path(path).readlink()).startswith("/memfd:"), "on no disk"
    assert not Path(path).exists()


def test_an_authfile_of_nobody() -> None:
    with registry.authfile(HOST) as path:
        assert json.loads(Path(path).read_text()) == {"auths": {}}


def test_tags(commands: Commands, remote: Registry) -> None:
    commands.answer("list-tags", stdout='{"Repository": "x", "Tags": ["v0.32.2", "latest"]}')
    assert remote.tags() == ["v0.32.2", "latest"]
    assert commands.args == [
        ["skopeo", "--insecure-policy", "list-tags", "--authfile=/authfile", f"docker://{HOST}/me/buildkit"]
    ]  # fmt: skip


def test_plain_http_for_this_machine_alone(commands: Commands) -> None:
    commands.answer("list-tags", stdout='{"Tags": null}')
    assert Registry(Reference("localhost:5000", "x"), "/authfile").tags() == []
    assert commands.args == [
        ["skopeo", "--insecure-policy", "list-tags", "--authfile=/authfile", "--tls-verify=false", "docker://localhost:5000/x"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        "Error listing repository tags: fetching tags list: invalid status code from registry 404 (Not Found)",
        "Error listing repository tags: fetching tags list: repository name not known to registry",
        'Error listing repository tags: fetching tags list: StatusCode: 404, \\"\\"',
        'reading manifest v9 in 127.0.0.1/a/b: manifest unknown: manifest unknown',
        "reading manifest v9 in 127.0.0.1/a/b: manifest unknown",
        "name unknown: repository not found",
    ],
)  # fmt: skip
def test_nothing_there_yet(commands: Commands, remote: Registry, said: str) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(said))
    assert remote.tags() == []
    assert remote.digest("v9") == ""


def test_a_digest_is_of_the_very_bytes(commands: Commands, remote: Registry) -> None:
    manifest = '{"é": 1}\n \n'
    commands.answer("inspect", "--raw", f"docker://{HOST}/me/buildkit:v1", stdout=manifest)
    assert remote.digest("v1") == f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "said",
    [
        REFUSED, "dial tcp: lookup registry.example on 10.0.0.1:53: no such host",
        "dial tcp 10.0.0.1:443: i/o timeout", "net/http: TLS handshake timeout",
    ],
)  # fmt: skip
def test_a_registry_that_never_answers(commands: Commands, remote: Registry, slept: list[float], said: str) -> None:  # fmt: skip
    commands.answer("skopeo", code=1, stderr=fatal(said))
    with pytest.raises(NetworkError, match=f"{HOST} cannot be reached: .*{said[-10:]}"):
        remote.tags()
    assert not slept


def test_one_that_has_answered_is_waited_for(monkeypatch: pytest.MonkeyPatch, remote: Registry, slept: list[float], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    lost = process.Result(1, "", fatal(REFUSED))
    answers = iter([process.Result(0, '{"Tags": []}', ""), lost, lost, process.Result(0, "{}", "")])
    monkeypatch.setattr(process, "probe", lambda _args: next(answers))
    remote.tags()
    assert remote.digest("v1")
    assert slept == [1, 2]
    assert f"{HOST}: {REFUSED}; trying again in 2 s\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [
        'StatusCode: 429, \\"\\"', "toomanyrequests: slow down", "rate limit exceeded",
        "received unexpected HTTP status: 503 Service Unavailable",
        "invalid status code from registry 500 (Internal Server Error)",
        "failed to read from destination repository a/b: 502 (Bad Gateway)",
    ],
)  # fmt: skip
def test_patience_has_an_end(commands: Commands, remote: Registry, slept: list[float], said: str) -> None:  # fmt: skip
    commands.answer("skopeo", code=1, stderr=fatal(said))
    with pytest.raises(NetworkError, match=f"{HOST} cannot do it now: ") as error:
        remote.tags()
    assert slept == list(registry.DELAYS)
    assert 60 <= sum(slept) <= 300
    assert "run it again" in error.value.hint


@pytest.mark.parametrize(
    "said",
    [
        "unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
        "fetching tags list: authentication required", 'StatusCode: 403, \\"\\"',
        "invalid status code from registry 403 (Forbidden)", "denied: requested access to the resource is denied",
        "uploading layer chunked: StatusCode: 401, ",
    ],
)  # fmt: skip
def test_wrong_credentials(commands: Commands, remote: Registry, slept: list[float], said: str) -> None:  # fmt: skip
    commands.answer("skopeo", code=1, stderr=fatal(said))
    with pytest.raises(NetworkError, match=f"{HOST} does not let you push to me/buildkit") as error:
        remote.tags()
    assert f"docker login {HOST}" in error.value.hint
    assert not slept


@pytest.mark.parametrize(
    "said",
    [
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "http: server gave HTTP response to HTTPS client",
    ],
)
def test_a_registry_that_nobody_vouches_for(commands: Commands, remote: Registry, slept: list[float], said: str) -> None:  # fmt: skip
    commands.answer("skopeo", code=1, stderr=fatal(said))
    with pytest.raises(NetworkError, match=f"{HOST} is not trusted here"):
        remote.tags()
    assert not slept


def test_anything_else_is_told_at_once(commands: Commands, remote: Registry, slept: list[float]) -> None:  # fmt: skip
    commands.answer("skopeo", code=1, stderr=fatal("tag v1 is immutable"))
    with pytest.raises(NetworkError, match=f"{HOST}/me/buildkit: tag v1 is immutable"):
        remote.tags()
    assert not slept


def test_a_skopeo_that_is_killed(commands: Commands, remote: Registry) -> None:
    commands.answer("skopeo", code=-9, stderr="Copying")
    with pytest.raises(NetworkError, match="skopeo: killed by SIGKILL: Copying"):
        remote.tags()


def test_no_upload_s_state_is_shown(commands: Commands, remote: Registry) -> None:
    said = 'Patch \\"http://registry.example/v2/x/blobs/uploads/1?_state=c2VjcmV0_-500%3D\\": odd'
    commands.answer("skopeo", code=1, stderr=fatal(said))
    with pytest.raises(NetworkError) as error:
        remote.tags()
    assert error.value.brief.endswith('Patch "http://registry.example/v2/x/blobs/uploads/1": odd')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A layout with three names of one image."""
    (tmp_path / "root").mkdir()
    layout.from_folder(tmp_path / "root", tmp_path / "image", Architecture.RISCV64)
    image = layout.load(tmp_path / "image")
    layout.gather({tag: [image] for tag in ("v0.32.2", "v0.32", "latest")}, tmp_path / "source")
    return tmp_path / "source"


def test_pushing(commands: Commands, remote: Registry, source: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    commands.answer("copy", stdout='Copying blob\ntime="x" level=warning msg="odd"')
    remote.put(source)
    copies = [call for call in commands.calls if "copy" in call.args]
    begin = ["skopeo", "--insecure-policy", "copy", "--authfile=/authfile", "--all", "--preserve-digests"]  # fmt: skip
    target = f"docker://{HOST}/me/buildkit"
    assert [call.args for call in copies] == [
        [*begin, "oci:.:v0.32.2", f"{target}:v0.32.2"],
        [*begin, "--quiet", "oci:.:v0.32", f"{target}:v0.32"],
        [*begin, "--quiet", "oci:.:latest", f"{target}:latest"],
    ]
    assert {call.verb for call in copies} == {"stream"}
    assert {call.options["cwd"] for call in copies} == {source}
    said = capsys.readouterr()
    assert "  Copying blob\n" in said.err
    assert "level=" not in said.err
    assert not said.out


def test_what_is_there_is_not_pushed(commands: Commands, remote: Registry, source: Path) -> None:
    digest = layout.names(source)["v0.32.2"]["digest"]
    manifest = layout.blob(source, digest).read_text()
    commands.answer("inspect", stdout=manifest)
    remote.put(source)
    assert not [args for args in commands.args if "copy" in args]


def test_pushing_over_this_machine_s_http(commands: Commands, source: Path) -> None:
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    Registry(Reference("127.0.0.1:5000", "x"), "/authfile").put(source)
    assert "--tls-verify=false" in commands.args[0]
    assert "--dest-tls-verify=false" in commands.args[1]


@pytest.mark.parametrize(
    "said",
    [
        "writing blob: Patch: readfrom tcp: write tcp: use of closed network connection",
        "write: connection reset by peer", "write: broken pipe", "unexpected EOF",
        "blob upload unknown: blob upload unknown to registry", REFUSED,
        "uploading manifest v1 to registry.example/x: blob unknown to registry",
    ],
)  # fmt: skip
def test_a_connection_that_breaks(monkeypatch: pytest.MonkeyPatch, commands: Commands, remote: Registry, source: Path, slept: list[float], said: str) -> None:  # fmt: skip
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    codes = iter([1, 1, 0, 0, 0])

    def stream(_args: list[str], on_line: Callable[[str], None], **_options: Any) -> int:
        on_line(fatal(said).strip())
        return next(codes)

    monkeypatch.setattr(process, "stream", stream)
    remote.put(source)
    assert slept == [1, 2]


def test_a_copy_of_what_is_missing_fails(commands: Commands, remote: Registry, source: Path, slept: list[float]) -> None:  # fmt: skip
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    commands.answer("copy", code=1, stdout=fatal("uploading manifest: StatusCode: 404, "))
    with pytest.raises(NetworkError, match="StatusCode: 404"):
        remote.put(source)
    assert not slept
