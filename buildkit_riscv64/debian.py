"""Debian's archives: the only place that knows where packages come from."""

from __future__ import annotations

from pathlib import Path

from . import process
from .errors import MissingRequirementError

#: The release that machines and images are made of.
SUITE = "trixie"
#: The keys that Debian signs its archives with.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


# Before apt has fetched an archive's index for the first time, only its address tells
# what it is: the last part of it, as on every mirror.
_LABELS = {"debian": "Debian", "debian-security": "Debian-Security"}


def archives() -> dict[str, str]:
    """Where this machine's own packages come from: addresses by label, as in `Debian-Security`."""
    found: dict[str, str] = {}
    for options in ([], ["--no-release-info"]):
        answer = process.probe(
            ["apt-get", "indextargets", *options, "--format", "$(REPO_URI) $(LABEL)"]
        )
        for line in answer.stdout.splitlines():
            address, _, label = line.partition(" ")
            address = address.rstrip("/")
            if label == "$(LABEL)":
                label = _LABELS.get(address.rpartition("/")[2], "")
            found.setdefault(label, address)
    return found


def mirror() -> str:
    """Where this machine's own Debian packages come from.

    Raises:
        MissingRequirementError: it has no Debian archive among its sources.
    """
    try:
        # There are others, such as "Debian Backports".
        return archives()["Debian"]
    except KeyError:
        raise MissingRequirementError(
            "no Debian archive among this machine's package sources",
            "add one and run apt-get update",
        ) from None


def security() -> str:
    """Where security updates come from; a guess, as Debian's own mirrors have it, if nothing says so."""
    known = archives()
    return known.get("Debian-Security") or f"{mirror()}-security"


def source(archive: str, suite: str, options: str = "") -> str:
    """A line of sources.list(5)."""
    return f"deb [signed-by={KEYRING}{options}] {archive} {suite} main"


def listed(path: Path) -> list[str]:
    """The lines of a list of packages or file names, without comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]
