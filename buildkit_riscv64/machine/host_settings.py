"""The host's CA certificates and proxy settings, passed on to a machine."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ..core.console import log

#: Certificates that the host's administrator has added.
CERTIFICATES = Path("/usr/local/share/ca-certificates")
#: Proxy variables in lower case; programs also read them in upper case.
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
#: The host's address in qemu's user-mode network.
HOST_ADDRESS = "10.0.2.2"


def proxies() -> dict[str, str]:
    """The host's proxy settings; a loopback address becomes :data:`HOST_ADDRESS`."""
    found = {}
    for name in PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            found[name] = value if name == "no_proxy" else _from_inside(value)
    return found


def _from_inside(address: str) -> str:
    # Most programs accept a proxy without a scheme.
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        return address
    user, at, host = parts.netloc.rpartition("@")
    port = re.search(r":\d*$", host)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{HOST_ADDRESS}{port[0] if port else ''}"))


def certificates() -> list[Path]:
    """The host's extra CA certificates."""
    return sorted(CERTIFICATES.rglob("*.crt")) if CERTIFICATES.is_dir() else []


def write(root: Path, bundle: Path) -> None:
    """Write certificates and proxy settings below a machine's root, and log their names.

    The host writes the bundle: update-ca-certificates takes minutes under emulation.
    The machine also gets the single certificates, so it can rebuild the bundle.

    Args:
        root: the directory that is copied over the machine's disk.
        bundle: Debian's certificates.
    """
    extra = certificates()
    directory = root / "usr/local/share/ca-certificates"
    directory.mkdir(parents=True)
    (root / "etc/ssl/certs").mkdir(parents=True)
    with (root / "etc/ssl/certs/ca-certificates.crt").open("wb") as all_:
        all_.write(bundle.read_bytes())
        for number, certificate in enumerate(extra):
            shutil.copy(certificate, directory / f"host-{number}-{certificate.name}")
            all_.write(certificate.read_bytes().rstrip() + b"\n")
    settings = proxies()
    lines = [f'{n}="{v}"\n' for name, v in settings.items() for n in (name, name.upper())]
    (root / "etc/environment").write_text("".join(lines))
    # A proxy's address may contain a password: log the variable's name only.
    for what, names in (
        ("CA certificates", [c.name for c in extra]),
        ("proxy settings", list(settings)),
    ):
        if names:
            log(f"the machine gets the host's {what}: {', '.join(names)}")
