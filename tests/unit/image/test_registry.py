from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.errors import NetworkError, UsageError
from buildkit_riscv64.image import layout, registry
from buildkit_riscv64.image.registry import Reference, Registry

from ..factories import Commands

HOST = "registry.example"
SECRET = "open-sesame"
REFUSED = "pinging container registry registry.example: dial tcp: connect: connection refused"


def fatal(text: str) -> str:
    """A log line of skopeo."""
    return f'time="2026-11-23T10:28:31Z" level=fatal msg="{text}"\n'


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's own credentials."""
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
        "ghcr.io:0/x", "ghcr.io:65536/x", "ghcr.io:/x", "ghcr.io:port/x", "ghcr.io:٣٣٣٣/x", "[::1]:5000/x",
        "me/buildkit", "..", "", f"ghcr.io/{'x' * 250}", "ghcr.io/é", "$(id).io/x",
    ],
)  # fmt: skip
def test_invalid_repository(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Reference.parse(text)
    assert error.value.hint


def test_missing_host_of_docker_hub() -> None:
    with pytest.raises(UsageError) as error:
        Reference.parse("me/buildkit")
    assert "docker.io/me/buildkit" in error.value.hint


def test_password_is_not_repeated() -> None:
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


def docker_config(directory: Path, config: Any) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))


def encoded(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '"x"', '{"auths": []}', '{"auths": {"x": "y"}}', '{"auths": {"x": {"auth": 5}}}',
     '{"auths": {"x": {"auth": "%%%"}}}', '{"credsStore": 5}', '{"credHelpers": []}', "[" * 5000, "\xff\xfe"],
)  # fmt: skip
def test_damaged_configuration_is_named(content: str) -> None:
    """docker's library treats it as no login, and the push fails much later."""
    docker_config(Path.home() / ".docker", {})
    path = Path.home() / ".docker/config.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=re.escape(str(path))):
        registry.login(HOST)


@pytest.mark.parametrize("content", ["", " \n", "{}", '{"auths": null}', '{"auths": {"registry.example": null}}', '{"psFormat": "table"}'])  # fmt: skip
def test_configuration_without_logins(content: str) -> None:
    docker_config(Path.home() / ".docker", {})
    (Path.home() / ".docker/config.json").write_text(content)
    assert registry.login(HOST) == {}


def test_unreadable_configuration() -> None:
    (Path.home() / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"config\.json"):
        registry.login(HOST)


@pytest.mark.parametrize("answer", ["[]", "{", '{"Tags": "latest"}', '{"Tags": [1]}', "{}"])
def test_invalid_list_of_tags(remote: Registry, commands: Commands, answer: str) -> None:
    commands.answer("list-tags", stdout=answer)
    with pytest.raises(NetworkError, match=HOST):
        remote.tags()


def test_no_credentials() -> None:
    assert registry.login(HOST) == {}


def test_docker_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {"auths": {HOST: {"auth": encoded("me", SECRET)}}}
    docker_config(Path.home() / ".docker", known)
    assert registry.login(HOST) == {"auth": encoded("me", SECRET)}
    assert registry.login("other.example") == {}
    docker_config(tmp_path / "elsewhere", {"auths": {HOST: {"auth": encoded("you", "x")}}})
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    assert registry.login(HOST) == {"auth": encoded("you", "x")}


def test_docker_hub_under_its_former_name() -> None:
    known = {"auths": {"https://index.docker.io/v1/": {"auth": encoded("me", SECRET)}}}
    docker_config(Path.home() / ".docker", known)
    assert registry.login("docker.io") == {"auth": encoded("me", SECRET)}


def test_identity_token() -> None:
    entry = {"auth": encoded("<token>", ""), "identitytoken": SECRET}
    docker_config(Path.home() / ".docker", {"auths": {HOST: entry}})
    assert registry.login(HOST) == entry


def helper(script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = script("bin/docker-credential-vault", body)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("config", [{"credsStore": "vault"}, {"credHelpers": {HOST: "vault"}}])
def test_credential_helpers(
    script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    helper(script, monkeypatch, f'test "$(cat)" = {HOST} && echo \'{{"Username": "me", "Secret": "{SECRET}"}}\'')  # fmt: skip
    docker_config(Path.home() / ".docker", config)
    assert registry.login(HOST) == {"auth": encoded("me", SECRET)}


def test_identity_token_of_a_helper(
    script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(script, monkeypatch, f'echo \'{{"Username": "<token>", "Secret": "{SECRET}"}}\'')
    docker_config(Path.home() / ".docker", {"credsStore": "vault"})
    assert registry.login(HOST) == {"auth": encoded("<token>", ""), "identitytoken": SECRET}


@pytest.mark.parametrize("body", ["echo locked; exit 1", "echo '{'"])
def test_failed_helper(
    script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    helper(script, monkeypatch, body)
    docker_config(Path.home() / ".docker", {"credsStore": "vault"})
    with pytest.raises(UsageError, match=HOST) as error:
        registry.login(HOST)
    assert error.value.hint == f"docker login {HOST}"


def test_missing_helper() -> None:
    docker_config(Path.home() / ".docker", {"credsStore": "no-such-vault"})
    with pytest.raises(UsageError, match="docker-credential-no-such-vault"):
        registry.login(HOST)


def test_environment_overrides_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    docker_config(Path.home() / ".docker", {"auths": {HOST: {"auth": encoded("me", "x")}}})
    monkeypatch.setenv(registry.USERNAME, "robot")
    monkeypatch.setenv(registry.PASSWORD, SECRET)
    assert registry.login(HOST) == {"auth": encoded("robot", SECRET)}


@pytest.mark.parametrize(
    ("given", "missing"),
    [(registry.USERNAME, registry.PASSWORD), (registry.PASSWORD, registry.USERNAME)],
)
def test_incomplete_environment(monkeypatch: pytest.MonkeyPatch, given: str, missing: str) -> None:
    monkeypatch.setenv(given, SECRET)
    with pytest.raises(UsageError) as error:
        registry.login(HOST)
    assert error.value.brief.startswith(missing)
    assert SECRET not in str(error.value)


def test_authfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.USERNAME, "robot")
    monkeypatch.setenv(registry.PASSWORD, SECRET)
    with registry.authfile(HOST) as path:
        for _ in range(2):
            content = json.loads(process.read(["cat", path]))
            assert content == {"auths": {HOST: {"auth": encoded("robot", SECRET)}}}
        assert str(Path(path).readlink()).startswith("/memfd:"), "on no disk"
    assert not Path(path).exists()


def test_empty_authfile() -> None:
    with registry.authfile(HOST) as path:
        assert json.loads(Path(path).read_text()) == {"auths": {}}


def test_tags(commands: Commands, remote: Registry) -> None:
    commands.answer("list-tags", stdout='{"Repository": "x", "Tags": ["v0.32.2", "latest"]}')
    assert remote.tags() == ["v0.32.2", "latest"]
    assert commands.args == [
        ["skopeo", "--insecure-policy", "list-tags", "--authfile=/authfile", f"docker://{HOST}/me/buildkit"]
    ]  # fmt: skip


def test_plain_http_only_for_this_machine(commands: Commands) -> None:
    commands.answer("list-tags", stdout='{"Tags": null}')
    assert Registry(Reference("localhost:5000", "x"), "/authfile").tags() == []
    assert commands.args == [
        ["skopeo", "--insecure-policy", "list-tags", "--authfile=/authfile", "--tls-verify=false", "docker://localhost:5000/x"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "output",
    [
        "Error listing repository tags: fetching tags list: invalid status code from registry 404 (Not Found)",
        "Error listing repository tags: fetching tags list: repository name not known to registry",
        'Error listing repository tags: fetching tags list: StatusCode: 404, \\"\\"',
        'reading manifest v9 in 127.0.0.1/a/b: manifest unknown: manifest unknown',
        "reading manifest v9 in 127.0.0.1/a/b: manifest unknown",
        "name unknown: repository not found",
    ],
)  # fmt: skip
def test_missing_repository(commands: Commands, remote: Registry, output: str) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(output))
    assert remote.tags() == []
    assert remote.digest("v9") == ""


def test_digest_is_of_the_raw_manifest(commands: Commands, remote: Registry) -> None:
    manifest = '{"é": 1}\n \n'
    commands.answer("inspect", "--raw", f"docker://{HOST}/me/buildkit:v1", stdout=manifest)
    assert remote.digest("v1") == f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "output",
    [
        REFUSED, "dial tcp: lookup registry.example on 10.0.0.1:53: no such host",
        "dial tcp 10.0.0.1:443: i/o timeout", "net/http: TLS handshake timeout",
    ],
)  # fmt: skip
def test_registry_never_answers(
    commands: Commands, remote: Registry, slept: list[float], output: str
) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(output))
    with pytest.raises(NetworkError, match=f"{HOST} .*{output[-10:]}"):
        remote.tags()
    assert not slept


def test_retries_after_a_first_answer(
    monkeypatch: pytest.MonkeyPatch,
    remote: Registry,
    slept: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = process.Result(1, "", fatal(REFUSED))
    answers = iter([process.Result(0, '{"Tags": []}', ""), lost, lost, process.Result(0, "{}", "")])
    monkeypatch.setattr(process, "probe", lambda _args: next(answers))
    remote.tags()
    assert remote.digest("v1")
    assert slept == [1, 2]
    assert f"{HOST}: {REFUSED}; trying again in 2 s\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "output",
    [
        'StatusCode: 429, \\"\\"', "toomanyrequests: slow down", "rate limit exceeded",
        "received unexpected HTTP status: 503 Service Unavailable",
        "invalid status code from registry 500 (Internal Server Error)",
        "failed to read from destination repository a/b: 502 (Bad Gateway)",
    ],
)  # fmt: skip
def test_retries_end(commands: Commands, remote: Registry, slept: list[float], output: str) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(output))
    with pytest.raises(NetworkError, match=HOST) as error:
        remote.tags()
    assert slept == list(registry.DELAYS)
    assert 60 <= sum(slept) <= 300
    assert "run it again" in error.value.hint


@pytest.mark.parametrize(
    "output",
    [
        "unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
        "fetching tags list: authentication required", 'StatusCode: 403, \\"\\"',
        "invalid status code from registry 403 (Forbidden)", "denied: requested access to the resource is denied",
        "uploading layer chunked: StatusCode: 401, ",
    ],
)  # fmt: skip
def test_wrong_credentials(
    commands: Commands, remote: Registry, slept: list[float], output: str
) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(output))
    with pytest.raises(NetworkError, match=f"{HOST} .*me/buildkit") as error:
        remote.tags()
    assert f"docker login {HOST}" in error.value.hint
    assert not slept


@pytest.mark.parametrize(
    "output",
    [
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "http: server gave HTTP response to HTTPS client",
    ],
)
def test_untrusted_registry(
    commands: Commands, remote: Registry, slept: list[float], output: str
) -> None:
    commands.answer("skopeo", code=1, stderr=fatal(output))
    with pytest.raises(NetworkError, match=f"{HOST} .*trusted"):
        remote.tags()
    assert not slept


def test_other_failures_are_not_retried(
    commands: Commands, remote: Registry, slept: list[float]
) -> None:
    commands.answer("skopeo", code=1, stderr=fatal("tag v1 is immutable"))
    with pytest.raises(NetworkError, match=f"{HOST}/me/buildkit: tag v1 is immutable"):
        remote.tags()
    assert not slept


def test_killed_skopeo(commands: Commands, remote: Registry) -> None:
    commands.answer("skopeo", code=-9, stderr="Copying")
    with pytest.raises(NetworkError, match="skopeo: killed by SIGKILL: Copying"):
        remote.tags()


def test_upload_state_is_not_shown(commands: Commands, remote: Registry) -> None:
    output = 'Patch \\"http://registry.example/v2/x/blobs/uploads/1?_state=c2VjcmV0_-500%3D\\": odd'
    commands.answer("skopeo", code=1, stderr=fatal(output))
    with pytest.raises(NetworkError) as error:
        remote.tags()
    assert error.value.brief.endswith('Patch "http://registry.example/v2/x/blobs/uploads/1": odd')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A layout with three names for one image."""
    (tmp_path / "root").mkdir()
    layout.from_directory(tmp_path / "root", tmp_path / "image", Architecture.RISCV64)
    image = layout.load(tmp_path / "image")
    layout.gather({tag: [image] for tag in ("v0.32.2", "v0.32", "latest")}, tmp_path / "source")
    return tmp_path / "source"


def test_pushing(
    commands: Commands, remote: Registry, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    output = capsys.readouterr()
    assert "  Copying blob\n" in output.err
    assert "level=" not in output.err
    assert not output.out


def test_existing_tags_are_not_pushed(commands: Commands, remote: Registry, source: Path) -> None:
    digest = layout.names(source)["v0.32.2"]["digest"]
    manifest = layout.blob(source, digest).read_text()
    commands.answer("inspect", stdout=manifest)
    remote.put(source)
    assert not [args for args in commands.args if "copy" in args]


def test_pushing_over_plain_http(commands: Commands, source: Path) -> None:
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    Registry(Reference("127.0.0.1:5000", "x"), "/authfile").put(source)
    assert "--tls-verify=false" in commands.args[0]
    assert "--dest-tls-verify=false" in commands.args[1]


@pytest.mark.parametrize(
    "output",
    [
        "writing blob: Patch: readfrom tcp: write tcp: use of closed network connection",
        "write: connection reset by peer", "write: broken pipe", "unexpected EOF",
        "blob upload unknown: blob upload unknown to registry", REFUSED,
        "uploading manifest v1 to registry.example/x: blob unknown to registry",
    ],
)  # fmt: skip
def test_broken_connection(
    monkeypatch: pytest.MonkeyPatch,
    commands: Commands,
    remote: Registry,
    source: Path,
    slept: list[float],
    output: str,
) -> None:
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    codes = iter([1, 1, 0, 0, 0])

    def stream(_args: list[str], on_line: Callable[[str], None], **_options: Any) -> int:
        on_line(fatal(output).strip())
        return next(codes)

    monkeypatch.setattr(process, "stream", stream)
    remote.put(source)
    assert slept == [1, 2]


def test_missing_repository_fails_a_copy(
    commands: Commands, remote: Registry, source: Path, slept: list[float]
) -> None:
    commands.answer("inspect", code=1, stderr=fatal("manifest unknown"))
    commands.answer("copy", code=1, stdout=fatal("uploading manifest: StatusCode: 404, "))
    with pytest.raises(NetworkError, match="StatusCode: 404"):
        remote.put(source)
    assert not slept
