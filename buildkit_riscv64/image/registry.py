"""A repository in a registry, to push to by Debian's skopeo: the only place that does.

skopeo asks for each blob before it sends it, and a manifest goes last: what was
interrupted goes on where it was, and nothing half-pushed is ever under a tag.
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

from .. import process
from ..console import say, step
from ..errors import NetworkError, UsageError
from . import layout

#: Seconds between tries, when a registry is busy or the connection breaks: two minutes in all.
DELAYS = (1, 2, 4, 8, 15, 30, 30, 30)
#: Name and password, where docker has none; neither is ever on a command line.
USERNAME, PASSWORD = "REGISTRY_USERNAME", "REGISTRY_PASSWORD"

# https://github.com/distribution/reference/blob/main/regexp.go; skopeo takes no IPv6 address.
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>{_LABEL}(?:\.{_LABEL})*)(?P<port>:\d{{1,5}})?/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
)

# What skopeo 1.9 and 1.18 say of a registry that fails, or of the way to it.
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
    """A repository, as in `ghcr.io/me/buildkit`.

    Args:
        host: the registry, with its port if it has one.
        repository: its name in there.
    """

    host: str
    repository: str

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.host}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The repository of `HOST[:PORT]/REPOSITORY`.

        Raises:
            UsageError: it is none, or more than one.
        """
        found = _REFERENCE.fullmatch(text)
        if not found or len(text) > 255 or int((found["port"] or ":1")[1:]) not in range(1, 65536):
            # What is before an @ may be a password.
            shown = "what you gave" if "@" in text else repr(text)
            raise UsageError(
                f"{shown} is not a repository in a registry",
                "give HOST[:PORT]/NAME in lower case, as in ghcr.io/me/buildkit;"
                " no https://, tag, digest or password",
            )
        if not found["port"] and "." not in found["name"] and found["name"] != "localhost":
            raise UsageError(
                f"{text!r} names no registry: docker takes {found['name']!r} for a user's name",
                f"give the host too, as in docker.io/{text}",
            )
        return cls(found["name"] + (found["port"] or ""), found["repository"])

    @property
    def is_local(self) -> bool:
        """True for this very machine: only there plain HTTP will do, as for docker."""
        name = self.host.partition(":")[0]
        try:
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def login(host: str) -> dict[str, str]:
    """What to show a registry, as docker's configuration writes it; nothing if there is nothing.

    Raises:
        UsageError: what there is cannot be used.
    """
    username, password = os.environ.get(USERNAME), os.environ.get(PASSWORD)
    if bool(username) != bool(password):
        missing = PASSWORD if username else USERNAME
        raise UsageError(f"{missing} is not set, and without it the other says nothing", "set both")
    token = ""
    if not username:
        from docker import auth

        try:
            found = auth.load_config().resolve_authconfig(host) or {}
        except Exception as error:  # its own, and those of credential helpers
            raise UsageError(
                f"docker's credentials for {host} cannot be read: {error}", f"docker login {host}"
            ) from error
        # A file's keys are in lower case, a helper's are not.
        values = {key.lower(): value for key, value in found.items()}
        token = values.get("identitytoken", "")
        username, password = values.get("username", "<token>" if token else ""), values.get("password", "")  # fmt: skip
    if not username:
        return {}
    encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"auth": encoded} | ({"identitytoken": token} if token else {})


@contextlib.contextmanager
def authfile(host: str) -> Iterator[str]:
    """A file for skopeo with what to show a registry and nothing else.

    It is in memory alone: however we end, no password is left on a disk.

    Raises:
        UsageError: what there is cannot be used.
    """
    shown = login(host)
    with os.fdopen(os.memfd_create("authfile"), "w") as file:
        json.dump({"auths": {host: shown} if shown else {}}, file)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _reason(result: process.Result) -> str:
    """Why skopeo failed: the message of its last log line, without what no person can read."""
    if found := re.search(r'msg="(.*)"$', result.last_line):
        return re.sub(r"\?_state=[^\s\"]*", "", found[1].replace('\\"', '"'))
    return f"skopeo: {process.describe_exit(result.code)}: {result.last_line}"


def _copy(args: process.Arguments, cwd: Path) -> process.Result:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if not line.startswith("time="):
            say(f"  {line}")

    return process.Result(process.stream(args, tell, cwd=cwd), "", "\n".join(lines))


class Registry:
    """A repository that images are pushed to.

    Args:
        reference: which.
        credentials: as from :func:`authfile`.
    """

    def __init__(self, reference: Reference, credentials: str) -> None:
        self._reference = reference
        self._credentials = credentials
        self._has_answered = False

    @property
    def name(self) -> str:
        """What people call it."""
        return self._reference.name

    def tags(self) -> list[str]:
        """All tags that there are.

        Raises:
            NetworkError: the registry does not answer, or not to us.
        """
        answer = self._ask("list-tags", f"docker://{self.name}")
        return list(json.loads(answer)["Tags"] or []) if answer else []

    def digest(self, tag: str) -> str:
        """The digest of what is under a tag; nothing if there is nothing.

        Raises:
            NetworkError: the registry does not answer, or not to us.
        """
        manifest = self._ask("inspect", "--raw", f"docker://{self.name}:{tag}")
        return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}" if manifest else ""

    def put(self, source: Path) -> None:
        """Push what a layout has by name, in its order, unless it is there.

        Raises:
            NetworkError: the registry refuses it, or is away for minutes.
        """
        sent = set()
        for tag, entry in layout.names(source).items():
            if self.digest(tag) == entry["digest"]:
                continue
            args = self._skopeo(
                "copy", "--all", "--preserve-digests",
                # The same once more has nothing to tell.
                *(["--quiet"] if entry["digest"] in sent else []),
                # A relative path, for an absolute one may have a colon in it.
                f"oci:.:{tag}", f"docker://{self.name}:{tag}",
            )  # fmt: skip
            with step(f"pushing {self.name}:{tag}"):
                self._patiently(functools.partial(_copy, args, source))
            sent.add(entry["digest"])

    def _skopeo(self, command: str, *args: str) -> list[str]:
        verify = "--dest-tls-verify" if command == "copy" else "--tls-verify"
        return [
            # Its policy says whose images are trusted, and these are ours.
            "skopeo", "--insecure-policy", command, f"--authfile={self._credentials}",
            *([f"{verify}=false"] if self._reference.is_local else []), *args,
        ]  # fmt: skip

    def _ask(self, *args: str) -> str:
        """What skopeo says; nothing if there is no such thing."""
        ask = functools.partial(process.probe, self._skopeo(*args))
        return self._patiently(ask, absent=_ABSENT)

    def _patiently(
        self, attempt: Callable[[], process.Result], absent: re.Pattern[str] | None = None
    ) -> str:
        """Try until it works, as long as that is a matter of time."""
        reason = ""
        for delay in (*DELAYS, 0):
            result = attempt()
            reason = "" if result.ok else _reason(result)
            done = result.ok or (absent is not None and absent.search(reason))
            busy = _BUSY.search(reason)
            self._has_answered |= bool(done or busy)
            if done:
                return result.stdout
            # One that has never answered may not be there at all.
            if not delay or not (busy or (self._has_answered and _BROKEN.search(reason))):
                break
            say(f"{self._reference.host}: {reason}; trying again in {delay} s")
            time.sleep(delay)
        raise self._failure(reason)

    def _failure(self, reason: str) -> NetworkError:
        host = self._reference.host
        again = "run it again: what is there is not sent again"
        for pattern, what, hint in (
            (_BUSY, f"{host} cannot do it now", f"later, {again}"),
            (
                _DENIED, f"{host} does not let you push to {self._reference.repository}",
                f"docker login {host}, or set {USERNAME} and {PASSWORD};"
                " the repository must exist, and be yours",
            ),
            (_BROKEN, f"{host} cannot be reached", f"check its name and the network, and {again}"),
            (
                _DISTRUST, f"{host} is not trusted here",
                f"put its authority into /etc/docker/certs.d/{host}/ca.crt;"
                " plain HTTP is for registries on this machine alone",
            ),
        ):  # fmt: skip
            if pattern.search(reason):
                return NetworkError(f"{what}: {reason}", hint)
        return NetworkError(f"{self.name}: {reason}", f"see what {host} has against it")
