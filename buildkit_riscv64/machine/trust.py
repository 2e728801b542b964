"""What the host trusts and how it reaches the network, handed on to a machine."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ..console import say

#: Where Debian keeps the certificates that its administrator has added.
CERTIFICATES = Path("/usr/local/share/ca-certificates")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
#: The host, as a machine in qemu's user-mode network sees it.
HOST_ADDRESS = "10.0.2.2"


def proxies() -> dict[str, str]:
    """The host's proxy settings; one on the host's loopback by its address from inside."""
    found = {}
    for name in _PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            found[name] = value if name == "no_proxy" else _from_inside(value)
    return found


def _from_inside(address: str) -> str:
    # Most programs take a proxy without a scheme, too.
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        return address
    user, at, place = parts.netloc.rpartition("@")
    port = re.search(r":\d*$", place)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{HOST_ADDRESS}{port[0] if port else ''}"))


def certificates() -> list[Path]:
    """The host's extra CA certificates."""
    return sorted(CERTIFICATES.rglob("*.crt")) if CERTIFICATES.is_dir() else []


def write(root: Path, bundle: Path) -> None:
    """Put both below a machine's root, and say so.

    The bundle is made here, because update-ca-certificates takes minutes under
    emulation; what it would need to make it again is there as well.

    Args:
        root: what is laid over the machine's disk.
        bundle: Debian's own certificates.
    """
    extra = certificates()
    folder = root / "usr/local/share/ca-certificates"
    folder.mkdir(parents=True)
    (root / "etc/ssl/certs").mkdir(parents=True)
    with (root / "etc/ssl/certs/ca-certificates.crt").open("wb") as all_:
        all_.write(bundle.read_bytes())
        for number, certificate in enumerate(extra):
            shutil.copy(certificate, folder / f"host-{number}-{certificate.name}")
            all_.write(certificate.read_bytes().rstrip() + b"\n")
    settings = proxies()
    lines = [f'{n}="{v}"\n' for name, v in settings.items() for n in (name, name.upper())]
    (root / "etc/environment").write_text("".join(lines))
    # Never a password on the screen: of a proxy only the variable is named.
    for what, names in (
        ("CA certificates", [c.name for c in extra]),
        ("proxy settings", list(settings)),
    ):
        if names:
            say(f"the machine gets the host's {what}: {', '.join(names)}")
