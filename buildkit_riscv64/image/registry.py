"""Repositories in a registry, with Debian's skopeo as the client.

skopeo asks for each blob before sending it, and sends manifests last: an interrupted push
continues where it stopped, and a tag never refers to a partial image.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import documents, filesystem, process, schemas
from ..core.console import log, step
from ..core.errors import NetworkError, UsageError
from . import layout

#: Seconds between attempts when a registry is busy or disconnects: two minutes altogether.
DELAYS = (1, 2, 4, 8, 15, 30, 30, 30)
#: Credentials if docker has none; never passed on a command line.
USERNAME, PASSWORD = "REGISTRY_USERNAME", "REGISTRY_PASSWORD"

# https://github.com/distribution/reference/blob/main/regexp.go; skopeo takes no IPv6 address.
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>{_LABEL}(?:\.{_LABEL})*)(?P<port>:[0-9]{{1,5}})?/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
)

# Messages of skopeo 1.9 and 1.18.
_ABSENT = re.compile(
    r"not known|(name|manifest) unknown|not found|does not exist|code: 404\b|\b404 \(", re.I
)
_DENIED = re.compile(
    r"unauthorized|denied|forbidden|authentication required|authorization failed"
    r"|code: 40[13]\b|\b40[13] \(",
    re.I,
)
_BUSY = re.compile(
    r"too ?many ?requests|rate (limit|exceeded)|(status|code): (429|5\d\d)\b|\b(429|5\d\d) \(", re.I
)
_BROKEN = re.compile(
    r"connection (refused|reset|timed out)|closed network connection|server closed|broken pipe"
    r"|\bEOF\b|timeout|no answer|no route to host|network is|no such host|server misbehaving"
    r"|(upload|blob) unknown",
    re.I,
)
_DISTRUST = re.compile(r"x509|certificate|HTTP response to HTTPS", re.I)


@dataclass(frozen=True)
class Reference:
    """A repository, such as `ghcr.io/me/buildkit`.

    Args:
        host: the registry, with its port if any.
        repository: the name in the registry.
    """

    host: str
    repository: str

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The repository of `HOST[:PORT]/REPOSITORY`.

        Raises:
            UsageError: invalid repository.
        """
        found = _REFERENCE.fullmatch(text)
        if not found or len(text) > 255 or int((found["port"] or ":1")[1:]) not in range(1, 65536):
            # Text before an @ may be a password.
            shown = "the given value" if "@" in text else repr(text)
            raise UsageError(
                f"{shown} is not a repository in a registry",
                "give HOST[:PORT]/NAME in lower case, such as ghcr.io/me/buildkit;"
                " no https://, tag, digest or password",
            )
        if not found["port"] and "." not in found["name"] and found["name"] != "localhost":
            raise UsageError(
                f"{text!r} names no registry: docker takes {found['name']!r} for a user's name",
                f"give the host too, such as docker.io/{text}",
            )
        return cls(found["name"] + (found["port"] or ""), found["repository"])

    @property
    def is_local(self) -> bool:
        """True for this machine: only its registries may use plain HTTP, as with docker."""
        name = self.host.partition(":")[0]
        try:
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _docker_config() -> Any:
    """Docker's configured logins.

    Raises:
        UsageError: the file cannot be read; the message names it.
    """
    from docker import auth, errors
    from docker.utils import config

    found = config.find_config_file()
    if found is None:
        return auth.AuthConfig({})
    path = Path(found)
    try:
        if path.name != "config.json":  # the legacy file has another format
            return auth.load_config(found)
        content = path.read_bytes()
        document = documents.parse_json(content) if content.strip() else {}
        documents.validate(document, schemas.DOCKER_CONFIG)
        logins = {key: value for key, value in (document.get("auths") or {}).items() if value}
        known = {key: document[key] for key in ("credsStore", "credHelpers") if document.get(key)}
        return auth.AuthConfig({**known, "auths": auth.parse_auth(logins)})
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, errors.DockerException) as error:
        reason = str(error)
    raise UsageError(
        f"cannot read {filesystem.display_path(path)}: {reason}",
        f"fix it, or move it away and log in again; or set {USERNAME} and {PASSWORD}",
    )


def login(host: str) -> dict[str, str]:
    """Credentials as in docker's configuration; empty without any.

    Raises:
        UsageError: the credentials cannot be used.
    """
    username, password = os.environ.get(USERNAME), os.environ.get(PASSWORD)
    if bool(username) != bool(password):
        missing = PASSWORD if username else USERNAME
        raise UsageError(f"{missing} is not set", f"set both {USERNAME} and {PASSWORD}, or neither")
    token = ""
    if not username:
        logins = _docker_config()
        try:
            found = logins.resolve_authconfig(host) or {}
        except Exception as error:  # of the SDK or a credential helper
            raise UsageError(
                f"docker's credentials for {host} cannot be read: {error}", f"docker login {host}"
            ) from error
        # Keys are in lower case in a file, but not from a helper.
        values = {key.lower(): value for key, value in found.items()}
        token = values.get("identitytoken", "")
        username, password = values.get("username", "<token>" if token else ""), values.get("password", "")  # fmt: skip
    if not username:
        return {}
    encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"auth": encoded} | ({"identitytoken": token} if token else {})


@contextlib.contextmanager
def authfile(host: str) -> Iterator[str]:
    """A file for skopeo with the credentials for one registry.

    It exists only in memory, so no password is ever left on a disk.

    Raises:
        UsageError: the credentials cannot be used.
    """
    credentials = login(host)
    with os.fdopen(os.memfd_create("authfile"), "w") as file:
        json.dump({"auths": {host: credentials} if credentials else {}}, file)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _reason(result: process.Result) -> str:
    """Why skopeo failed: the message of its last log line, without upload tokens."""
    if found := re.search(r'msg="(.*)"$', result.last_line):
        return re.sub(r"\?_state=[^\s\"]*", "", found[1].replace('\\"', '"'))
    return f"skopeo: {process.describe_exit(result.code)}: {result.last_line}"


def _copy(args: process.Arguments, cwd: Path) -> process.Result:
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if not line.startswith("time="):
            log(f"  {line}")

    return process.Result(process.stream(args, on_line, cwd=cwd), "", "\n".join(lines))


class Registry:
    """A repository to push to.

    Args:
        reference: the repository.
        credentials: from :func:`authfile`.
    """

    def __init__(self, reference: Reference, credentials: str) -> None:
        self._reference = reference
        self._credentials = credentials
        self._has_answered = False

    @property
    def name(self) -> str:
        """The name in messages."""
        return self._reference.name

    def tags(self) -> list[str]:
        """Every existing tag.

        Raises:
            NetworkError: the registry does not answer, or denies access.
        """
        answer = self._ask("list-tags", f"docker://{self.name}")
        if not answer:
            return []
        try:
            found = documents.parse_json(answer)
            documents.validate(found, schemas.OCI, "tags")
        except documents.InvalidDocumentError as error:
            raise NetworkError(
                f"{self.name}: not a list of tags: {error}", f"see what answers at {self._reference.host}"
            ) from error  # fmt: skip
        return list(found["Tags"] or [])

    def digest(self, tag: str) -> str:
        """The digest of a tag; empty if it does not exist.

        Raises:
            NetworkError: the registry does not answer, or denies access.
        """
        manifest = self._ask("inspect", "--raw", f"docker://{self.name}:{tag}")
        return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}" if manifest else ""

    def put(self, source: Path) -> None:
        """Push the missing images of a layout by name, in its order.

        Raises:
            NetworkError: the registry refuses an image, or stays unavailable.
        """
        sent = set()
        for tag, entry in layout.names(source).items():
            if self.digest(tag) == entry["digest"]:
                continue
            args = self._skopeo(
                "copy", "--all", "--preserve-digests",
                # Repeated pushes of one digest need no output.
                *(["--quiet"] if entry["digest"] in sent else []),
                # A relative path, because skopeo's syntax does not allow colons in paths.
                f"oci:.:{tag}", f"docker://{self.name}:{tag}",
            )  # fmt: skip
            with step(f"pushing {self.name}:{tag}"):
                self._patiently(functools.partial(_copy, args, source))
            sent.add(entry["digest"])

    def _skopeo(self, command: str, *args: str) -> list[str]:
        verify = "--dest-tls-verify" if command == "copy" else "--tls-verify"
        return [
            # Skip skopeo's trust policy: the images are our own.
            "skopeo", "--insecure-policy", command, f"--authfile={self._credentials}",
            *([f"{verify}=false"] if self._reference.is_local else []), *args,
        ]  # fmt: skip

    def _ask(self, *args: str) -> str:
        """Skopeo's output, or nothing if the object does not exist."""
        ask = functools.partial(process.probe, self._skopeo(*args))
        return self._patiently(ask, absent=_ABSENT)

    def _patiently(
        self, attempt: Callable[[], process.Result], absent: re.Pattern[str] | None = None
    ) -> str:
        """Retry while the failure is temporary."""
        reason = ""
        for delay in (*DELAYS, 0):
            result = attempt()
            reason = "" if result.ok else _reason(result)
            done = result.ok or (absent is not None and absent.search(reason))
            busy = _BUSY.search(reason)
            self._has_answered |= bool(done or busy)
            if done:
                return result.stdout
            # A registry that has never answered may not exist.
            if not delay or not (busy or (self._has_answered and _BROKEN.search(reason))):
                break
            log(f"{self._reference.host}: {reason}; trying again in {delay} s")
            time.sleep(delay)
        raise self._failure(reason)

    def _failure(self, reason: str) -> NetworkError:
        host = self._reference.host
        again = "run it again: existing blobs are not sent again"
        for pattern, what, hint in (
            (_BUSY, f"{host} is busy", f"later, {again}"),
            (
                _DENIED, f"{host} does not let you push to {self._reference.repository}",
                f"docker login {host}, or set {USERNAME} and {PASSWORD};"
                " the repository must exist, and be yours",
            ),
            (_BROKEN, f"{host} cannot be reached", f"check its name and the network, and {again}"),
            (
                _DISTRUST, f"{host} is not trusted here",
                f"put its authority into /etc/docker/certs.d/{host}/ca.crt;"
                " only registries on this machine may use plain HTTP",
            ),
        ):  # fmt: skip
            if pattern.search(reason):
                return NetworkError(f"{what}: {reason}", hint)
        return NetworkError(f"{self.name}: {reason}", f"see the message of {host}")
