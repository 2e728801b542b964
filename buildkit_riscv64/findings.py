"""What checks find, and what is refused because of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import dist, storage
from .console import Status, count, emit_json, say, table
from .errors import CheckError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        subject: what it belongs to, as a file's name.
        check: what was looked at.
        status: how it ended.
        detail: what was seen, and for a failure what was expected.
    """

    subject: str
    check: str
    status: Status
    detail: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


#: Findings by what was looked at: a target, or an image of one.
Findings = Mapping[str, Sequence[Finding]]


def judged(subject: str, check: str, good: bool, seen: object, expected: object) -> Finding:  # noqa: FBT001
    """A finding that is good, or says what was expected.

    Args:
        subject: what it belongs to.
        check: what was looked at.
        good: whether that is as it should be.
        seen: for people; a list is joined where it is good.
        expected: for people, where it is not.
    """
    if good:
        shown = ", ".join(map(str, seen)) if isinstance(seen, list) and seen else str(seen)
        return Finding(subject, check, Status.OK, shown)
    return Finding(subject, check, Status.FAIL, f"{seen}, expected {expected}")


def equal(subject: str, check: str, seen: object, expected: object) -> Finding:
    """A finding that is good if what was seen is what was expected."""
    return judged(subject, check, seen == expected, seen, expected)


def of_files(artifacts: dist.Artifacts, besides: Iterable[str] = ()) -> Iterator[Finding]:
    """Findings of a finished folder: the manifest's files as it records them, and no others.

    Args:
        artifacts: the folder, whose manifest is as the schema has it.
        besides: what may be there besides. Later phases' parts may, too.
    """
    folder, listed = artifacts.path, artifacts.files
    for name, record in listed.items():
        try:
            seen = storage.sha256(folder / name)
        except OSError as error:
            yield Finding(name, "sha256", Status.FAIL, f"cannot be read: {error.strerror}")
            continue
        yield equal(name, "sha256", seen, record["sha256"])
    sums = folder / dist.SUMS
    wanted = dist.sums([*listed.values(), *dist.record(folder, [dist.MANIFEST])])
    same = sums.is_file() and sums.read_bytes() == wanted.encode()
    yield judged(
        dist.SUMS, "complete", same, "lists every file" if same else "differs", "all files"
    )
    known = {Path(name) for name in (*listed, *besides, dist.MANIFEST, dist.SUMS)}
    known |= {parent for path in known for parent in path.parents}
    present = {path.relative_to(folder) for path in folder.rglob("*")}
    extra = sorted(str(path) for path in present - known if path.parts[0] not in dist.PARTS)
    yield judged(".", "nothing else", not extra, ", ".join(extra[:5]) or "nothing", "nothing")


def refuse_failed(findings: Findings, fix: str) -> None:
    """Fail if anything did.

    Args:
        findings: all of them.
        fix: what to do about it.

    Raises:
        CheckError: naming the first, and how many more there are.
    """
    failed = [(t, f) for t, all_ in findings.items() for f in all_ if f.status is Status.FAIL]
    if failed:
        for _, one in failed[1:]:
            say(f"  {one.subject}: {one.check}: {one.detail}")
        what, first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckError(f"{what}: {first.subject}: {first.check}: {first.detail}{more}", fix)


def report(findings: Findings, fix: str, *, json: bool) -> None:
    """Show each finding, and fail if one failed.

    Raises:
        CheckError: something failed.
    """
    if json:
        emit_json({what: [f.as_json() for f in all_] for what, all_ in findings.items()})
    for what, all_ in findings.items():
        table(
            (what, "check", "", "seen"),
            [(f.subject, f.check, str(f.status), f.detail) for f in all_],
            title=f"{what}: checks",
        )
    refuse_failed(findings, fix)
    for what, all_ in findings.items():
        passed = sum(f.status is Status.OK for f in all_)
        warned = count(len(all_) - passed, "warning")
        say(f"{what}: {count(passed, 'check')} passed, {warned}")
