"""Results of checks of artifacts: collect, print and refuse them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import dist, filesystem
from .console import Status, count, emit_json, log, table
from .errors import CheckError


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        subject: the checked part, such as a file's name.
        check: the check's name.
        status: its result.
        detail: the value found and, for a failure, the expected value.
    """

    subject: str
    check: str
    status: Status
    detail: str

    def as_json(self) -> dict[str, Any]:
        """The record for `--json`."""
        return asdict(self)


#: Findings by the name of the checked target or image.
Findings = Mapping[str, Sequence[Finding]]


def judged(subject: str, check: str, good: bool, seen: object, expected: object) -> Finding:  # noqa: FBT001
    """The finding of a check: OK, or FAIL with the expected value.

    Args:
        subject: the checked part.
        check: the check's name.
        good: the check passed.
        seen: the value found; a list is joined when the check passed.
        expected: the expected value, in words.
    """
    if good:
        shown = ", ".join(map(str, seen)) if isinstance(seen, list) and seen else str(seen)
        return Finding(subject, check, Status.OK, shown)
    return Finding(subject, check, Status.FAIL, f"{seen}, expected {expected}")


def equal(subject: str, check: str, seen: object, expected: object) -> Finding:
    """The finding of a comparison."""
    return judged(subject, check, seen == expected, seen, expected)


def of_damaged(directory: Path, error: CheckError) -> list[Finding]:
    """The finding of a directory with a damaged manifest.

    Args:
        directory: the directory.
        error: why its manifest cannot be used.

    Raises:
        CheckError: the directory has no manifest.
    """
    if not (directory / dist.MANIFEST).exists():
        raise error
    return [Finding(dist.MANIFEST, "schema", Status.FAIL, error.brief)]


def of_files(artifacts: dist.Artifacts, optional: Iterable[str] = ()) -> Iterator[Finding]:
    """Findings of a finished directory: every file matches the manifest, and no other file exists.

    Args:
        artifacts: the directory, with a manifest that matches its schema.
        optional: other files that may exist. Parts of later phases may exist too.
    """
    directory, listed = artifacts.path, artifacts.files
    for name, record in listed.items():
        try:
            seen = filesystem.sha256(directory / name)
        except OSError as error:
            yield Finding(name, "sha256", Status.FAIL, f"cannot be read: {error.strerror}")
            continue
        yield equal(name, "sha256", seen, record["sha256"])
    checksums = directory / dist.SUMS
    expected = dist.sums([*listed.values(), *dist.record(directory, [dist.MANIFEST])])
    same = checksums.is_file() and filesystem.read_bytes(checksums) == expected.encode()
    yield judged(
        dist.SUMS, "complete", same, "lists every file" if same else "differs", "all files"
    )
    known = {Path(name) for name in (*listed, *optional, dist.MANIFEST, dist.SUMS)}
    known |= {parent for path in known for parent in path.parents}
    present = {path.relative_to(directory) for path in directory.rglob("*")}
    extra = sorted(str(path) for path in present - known if path.parts[0] not in dist.PARTS)
    yield judged(".", "nothing else", not extra, ", ".join(extra[:5]) or "nothing", "nothing")


def refuse_failed(findings: Findings, fix: str) -> None:
    """Fail if a check failed.

    Args:
        findings: every finding.
        fix: what to do about a failure.

    Raises:
        CheckError: names the first failure and counts the others.
    """
    failed = [(t, f) for t, all_ in findings.items() for f in all_ if f.status is Status.FAIL]
    if failed:
        for _, one in failed[1:]:
            log(f"  {one.subject}: {one.check}: {one.detail}")
        name, first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"{name}: {first.subject}: {first.check}: {first.detail}{more}", fix)


def _rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """A table row for each finding."""
    return [(f.subject, f.check, str(f.status), f.detail) for f in findings]


def summary(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Table rows: how many checks each subject passed, then each warning and failure in full.

    Subjects with one check, such as the checksum of a file, share a row.
    """
    passed = Counter(f.subject for f in findings if f.status is Status.OK)
    rows = [(subject, number) for subject, number in passed.items() if number > 1]
    single = [subject for subject, number in passed.items() if number == 1]
    if single:
        rows.append((single[0] if len(single) == 1 else f"{len(single)} others", len(single)))
    shown = [(subject, count(number, "check"), str(Status.OK), "") for subject, number in rows]
    return shown + _rows([f for f in findings if f.status is not Status.OK])


def report(findings: Findings, fix: str, *, json: bool, verbose: bool = False) -> None:
    """Print the findings, and fail if a check failed.

    Args:
        findings: every finding.
        fix: what to do about a failure.
        json: print every finding as JSON on stdout.
        verbose: show every finding, not a summary.

    Raises:
        CheckError: a check failed.
    """
    if json:
        emit_json({name: [f.as_json() for f in all_] for name, all_ in findings.items()})
    for name, all_ in findings.items():
        table(
            (name, "check", "", "seen"),
            _rows(all_) if verbose else summary(all_),
            title=f"{name}: checks",
        )
    refuse_failed(findings, fix)
    for name, all_ in findings.items():
        passed = sum(f.status is Status.OK for f in all_)
        warned = count(len(all_) - passed, "warning")
        log(f"{name}: {count(passed, 'check')} passed, {warned}")
