"""`invoke verify-release`: verify a release, from its signature to every byte of its programs.

Nothing in `dist/` is used or changed. The programs of the release are compiled again here; the
packages and images must contain exactly those programs.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..binaries import verify
from ..core import dist, documents, dry_run, filesystem, process, project, schemas
from ..core.arch import Target
from ..core.console import log, step
from ..core.errors import CheckError, NetworkError, UsageError
from ..image.variants import Variant
from ..packages import contents
from ..system import apt
from ..upstream import github
from ..validation import page
from ..validation.artifacts import programs
from ..validation.suites import ScenarioOutcome
from . import gate
from .release import (
    DESCRIPTION,
    NOTES,
    PUBLIC_KEY,
    SIGNATURE,
    for_gh,
    order,
    prefix_of,
    require_verified,
)

_COMPLETE = "give a directory with all files of a release; download them again if it was one"
_DO_NOT_USE = "do not use this release, and report it to its maintainers"
# The files that SHA256SUMS cannot list.
_UNLISTED = {dist.SUMS, SIGNATURE, NOTES}


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Args:
        directory: the release's files.
        description: the release's description.
        fingerprint: the fingerprint of the key that signed it.
        verdict: the result of compiling the programs again; None under `--dry`.
        seconds: the duration.
    """

    directory: Path
    description: Mapping[str, Any]
    fingerprint: str
    verdict: Mapping[str, Any] | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "tag": self.description["tag"], "target": self.description["target"],
            "key": self.fingerprint, "verdict": self.verdict, "seconds": round(self.seconds, 1),
        }  # fmt: skip


def verify_release(
    release: str, *, fingerprint: str = "", repository: str = "", yes: bool = False
) -> Verification:
    """Verify a release.

    Args:
        release: a directory with all files of a release, or a tag to download.
        fingerprint: the fingerprint that the signing key must have; empty for any.
        repository: of the tag, as OWNER/NAME; empty for the repository in the environment.
        yes: install missing tools without asking.

    Raises:
        UsageError: neither a directory nor a tag.
        CheckError: a file is missing, damaged, not signed or not what it claims to be.
        MismatchError: a program is not what its source compiles to.
        NetworkError: the download failed.
    """
    started = time.monotonic()
    expected = fingerprint.replace(" ", "").upper()
    if expected and not re.fullmatch("[0-9A-F]{40}|[0-9A-F]{64}", expected):
        raise UsageError(
            f"--fingerprint {fingerprint!r} is not a fingerprint", "give all its digits"
        )
    directory = Path(release)
    if not (release and directory.is_dir()):
        if order(release) is None:
            raise UsageError(
                f"{release!r} is neither a directory nor the tag of a release",
                "give a directory with all files of a release, or a tag like v0.32.2",
            )
        directory = _downloaded(release, github.repository(repository), yes=yes)
    apt.ensure_installed(["gpg", *contents.TOOLS], yes=yes)
    with step("checking the signature and the checksums"):
        names = _check_sums(directory)
        signer = _signer(directory)
    if expected and signer != expected:
        raise CheckError(
            f"the release is signed by {signer}, not by {expected}",
            _DO_NOT_USE,
        )
    _require(directory, {DESCRIPTION}, names)
    description = documents.load(directory / DESCRIPTION, schemas.RELEASE)
    prefix = prefix_of(description)
    read = (dist.MANIFEST, dist.RESULTS, "evidence.html", "tar.gz")
    _require(directory, {f"{prefix}.{name}" for name in read}, names)
    if (own := {file["name"] for file in description["files"]} | {DESCRIPTION}) != names:
        raise CheckError(
            f"{DESCRIPTION} and {dist.SUMS} list different files: {min(own ^ names)}", _DO_NOT_USE
        )
    with _unpacked(directory, description) as binaries:
        verdict = verify.compile_again(binaries, Target.parse(description["target"]))
        verified = _confirmed(binaries, verdict)
        with step("comparing the packages and the images"):
            images = require_verified([directory / name for name in sorted(names)], verified)
        _check_evidence(directory, description, binaries, images)
    return Verification(directory, description, signer, verdict, time.monotonic() - started)


def _downloaded(tag: str, repository: str, *, yes: bool) -> Path:
    """Download all files of a release to the cache."""
    apt.ensure_installed(["gh"], yes=yes)
    if dry_run.active():
        raise dry_run.EndedError(f"would download {tag} of {repository}")
    directory = project.cache() / "releases" / repository / tag
    with step(f"downloading {tag} of {repository}"):
        process.run(
            ["gh", "release", "download", tag, f"--repo={repository}", f"--dir={directory}", "--clobber"],
            env=for_gh(), title=f"gh release download {tag}", error=NetworkError,
            hint="see gh's output above, and run it again",
        )  # fmt: skip
    return directory


def _check_sums(directory: Path) -> set[str]:
    """Compare every file with SHA256SUMS; return the names in it."""
    sums = directory / dist.SUMS
    try:
        listed = dist.parse_sums(filesystem.read_bytes(sums))
    except FileNotFoundError:
        raise CheckError(f"{directory} has no {dist.SUMS}", _COMPLETE) from None
    except (OSError, ValueError) as error:
        raise CheckError(f"{sums} cannot be used: {error}", _COMPLETE) from error
    present = {path.name for path in directory.iterdir()}
    for name in sorted(listed):
        if name not in present:
            raise CheckError(f"{directory} lacks {name}", _COMPLETE)
        if filesystem.sha256(directory / name) != listed[name]:
            raise CheckError(f"{directory / name} does not match {dist.SUMS}", _COMPLETE)
    if unknown := sorted(present - listed.keys() - _UNLISTED):
        raise CheckError(f"{directory / unknown[0]} is not part of the release", "remove it")
    return set(listed)


def _require(directory: Path, wanted: set[str], names: set[str]) -> None:
    for name in sorted(wanted - names):
        raise CheckError(f"{directory / dist.SUMS} does not list {name}", _COMPLETE)


def _signer(directory: Path) -> str:
    """The fingerprint of the key that signed SHA256SUMS."""
    for name in (SIGNATURE, PUBLIC_KEY):
        if not (directory / name).is_file():
            raise CheckError(f"the release is not signed: no {name}", _DO_NOT_USE)
    with tempfile.TemporaryDirectory(prefix="gnupg-") as home:
        gpg = ["gpg", "--batch", "--no-autostart", "--quiet"]
        env = process.environment({"GNUPGHOME": home})
        process.read([*gpg, "--import", directory / PUBLIC_KEY], env=env, error=CheckError)
        answer = process.probe(
            [*gpg, "--status-fd=1", "--verify", directory / SIGNATURE, directory / dist.SUMS],
            env=env,
        )  # fmt: skip
    # The last field is the primary key's fingerprint (doc/DETAILS of GnuPG).
    valid = re.findall(r"^\[GNUPG:\] VALIDSIG .* ([0-9A-F]{40,64})$", answer.stdout, re.M)
    if not answer.ok or len(valid) != 1:
        raise CheckError(f"the signature of {dist.SUMS} is not valid: {answer.last_line}", _DO_NOT_USE)  # fmt: skip
    return str(valid[0])


@contextlib.contextmanager
def _unpacked(directory: Path, description: Mapping[str, Any]) -> Iterator[dist.Artifacts]:
    """Yield the programs of the tarball with their manifest, as in `dist/`."""
    target = Target.parse(description["target"])
    tarball = directory / dist.tarball(description["version"], target)
    place = None
    if not dry_run.active():
        # Not /tmp, which may be in memory.
        place = project.cache() / "verification"
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="release-", dir=place) as name:
        root = Path(name) / target.name
        try:
            with tarfile.open(tarball) as tar:
                filesystem.unpack(tar, root)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise CheckError(f"{tarball} cannot be read: {error}", _DO_NOT_USE) from error
        shutil.copyfile(
            directory / f"{prefix_of(description)}.{dist.MANIFEST}", root / dist.MANIFEST
        )
        binaries = dist.load(root, dist.Kind.BINARIES)
        if (binaries.manifest["target"], binaries.manifest["version"]) != (target.name, description["version"]):  # fmt: skip
            raise CheckError("the manifest is of another release", _DO_NOT_USE)
        for program in binaries.programs:
            path = root / dist.binary(program)
            if path.is_symlink() or not path.is_file():
                raise CheckError(f"{tarball} has no program {dist.binary(program)}", _DO_NOT_USE)
        yield binaries


def _confirmed(binaries: dist.Artifacts, verdict: Mapping[str, Any] | None) -> dict[str, str]:
    """The sha256 of each program, by name; each must be confirmed unless nothing was compiled."""
    confirmed = gate.confirmed(verdict) if verdict else None
    found = {}
    for name in binaries.programs:
        file = dist.binary(name)
        found[name] = binaries.files[file]["sha256"]
        if confirmed is not None and confirmed.get(file) != found[name]:
            raise CheckError(f"{file} was not compiled again, and so not verified", _DO_NOT_USE)
    return found


def _check_evidence(
    directory: Path,
    description: Mapping[str, Any],
    binaries: dist.Artifacts,
    images: Mapping[Variant, str],
) -> None:
    """Check that the evidence is for these programs and images, and has no failure."""
    path = directory / f"{prefix_of(description)}.{dist.RESULTS}"
    evidence = documents.load(path, schemas.EVIDENCE)
    if evidence["binaries"] != programs(binaries):
        raise CheckError(f"{path}: the evidence is for other programs", _DO_NOT_USE)
    if evidence["counts"][ScenarioOutcome.FAILED]:
        raise CheckError(f"{path}: a scenario failed", _DO_NOT_USE)
    for variant in Variant:
        if variant not in images or evidence["images"][variant] != images[variant]:
            raise CheckError(f"{path}: the evidence is for another {variant} image", _DO_NOT_USE)
    shown = directory / f"{prefix_of(description)}.evidence.html"
    if filesystem.read_bytes(shown).decode(errors="replace") != page.render(evidence):
        raise CheckError(f"{shown} is not the page of this evidence", _DO_NOT_USE)
    log(f"evidence: {evidence['counts'][ScenarioOutcome.PASSED]} scenarios passed")
