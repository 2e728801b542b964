from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, host, pages, project, storage
from buildkit_riscv64.errors import CheckError, Failure
from buildkit_riscv64.validation import evidence, versions
from buildkit_riscv64.validation.subject import Subject
from buildkit_riscv64.validation.suites import SUITES

from ..making import edit_manifest
from .scenes import TARGET, Publish, result, scene

WHOLE = {name: result() for name in SUITES}


def test_a_document(found: Subject) -> None:
    early = result(started="2026-11-25T09:00:00Z")
    mixed = result(scene(), scene("b", "failed"), scene("c", "not proven"))
    document, dropped = evidence.assemble(found, {"buildx": mixed, "standalone": early}, None)
    assert dropped == []
    assert list(document["suites"]) == ["standalone", "buildx"]
    assert (document["started"], document["finished"]) == (
        "2026-11-25T09:00:00Z", "2026-11-25T11:10:00Z",
    )  # fmt: skip
    assert document["counts"] == {"passed": 2, "failed": 1, "not proven": 1}
    assert document["host"] == host.facts().as_json()
    assert document["target"] == "linux-riscv64"
    assert document["cgroup_version"] in {1, 2}


def test_versions_of_all_suites_together(found: Subject) -> None:
    none: dict[str, Any] = dict.fromkeys(versions.NAMES)
    suites = {
        "standalone": result(versions={**none, "kernel": "6.12", "runc": "1.1.5"}),
        "buildx": result(versions={**none, "kernel": "6.12", "docker": "26.1.5"}),
        "rootless": result(versions={**none, "kernel": "6.12", "runc": "1.3.0", "other": "1"}),
    }
    document, _ = evidence.assemble(found, suites, None)
    assert document["versions"] == {
        **none, "kernel": "6.12", "docker": "26.1.5", "runc": "1.1.5, 1.3.0", "other": "1"
    }  # fmt: skip


# What stays of earlier evidence.

OTHER = {"root": None, "rootless": None}
EARLIER: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "the same": (lambda _: None, []),
    "other memory": (lambda d: d["host"].update(memory_bytes=1), []),
    "other images": (lambda d: d.update(images=OTHER), ["buildx", "rootless"]),
    "other binaries": (lambda d: d["binaries"].update(buildctl="0" * 64), list(SUITES)),
    "other kernel": (lambda d: d["host"].update(kernel="Linux 1"), list(SUITES)),
    "other execution": (lambda d: d["host"].update(execution="qemu-user"), list(SUITES)),
    "other control groups": (lambda d: d.update(cgroup_version=7), list(SUITES)),
}


@pytest.mark.parametrize("what", EARLIER)
def test_earlier_results(found: Subject, what: str) -> None:
    change, lost = EARLIER[what]
    earlier, _ = evidence.assemble(found, WHOLE, None)
    change(earlier)
    now = result(scene("test_now"))
    document, dropped = evidence.assemble(found, {"platforms": now}, earlier)
    assert document["suites"]["platforms"] == now
    assert dropped == sorted(set(lost) - {"platforms"})
    assert set(document["suites"]) == set(SUITES) - set(dropped)


def test_a_suite_that_is_none_any_more_is_dropped(found: Subject) -> None:
    earlier, _ = evidence.assemble(found, WHOLE, None)
    earlier["suites"]["former"] = result()
    _, dropped = evidence.assemble(found, {"buildx": result()}, earlier)
    assert dropped == ["former"]


# What lies in dist/.


def test_what_is_published_is_what_the_schema_says(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / evidence.junit("standalone")).write_text("<new/>")
    published = publish({"standalone": result(), "buildx": result()}, tmp_path / "made")
    assert published.path == dist.evidence_folder(TARGET)
    assert evidence.load(published.path).manifest == published.manifest
    assert evidence.load(published.path / dist.RESULTS).manifest == published.manifest
    assert (published.path / evidence.junit("standalone")).read_text() == "<new/>"
    again = publish({"buildx": result()})
    assert (again.path / evidence.junit("standalone")).read_text() == "<new/>"


def test_what_the_schema_refuses_is_not_published(publish: Publish) -> None:
    publish({"standalone": result()})
    before = dist.load(dist.evidence_folder(TARGET)).manifest
    with pytest.raises(Failure, match="evidence that is none"):
        publish({"standalone": result(scene(outcome="maybe"), counts=result()["counts"])})
    assert dist.load(dist.evidence_folder(TARGET)).manifest == before
    assert not list(project.DIST.glob(".*staging*"))


def test_anybodys_copy_can_be_loaded(publish: Publish, tmp_path: Path) -> None:
    published = publish(WHOLE)
    shutil.copytree(published.path, tmp_path / "elsewhere")
    assert evidence.load(tmp_path / "elsewhere").manifest == published.manifest


def spoil(document: dict[str, Any], *path: str, value: Any = None) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.mark.parametrize(
    "path",
    [
        ("evidence_version",), ("target",), ("revision",), ("binaries", "buildctl"), ("host",),
        ("host", "execution"), ("suites",), ("suites", "standalone"), ("counts", "failed"),
        ("suites", "standalone", "scenarios"), ("versions",), ("inputs", "binaries"), ("pinned",),
    ],
)  # fmt: skip
def test_damaged_evidence(publish: Publish, path: tuple[str, ...]) -> None:
    published = publish(WHOLE)
    document = json.loads((published.path / dist.RESULTS).read_text())
    spoil(document, *path)
    (published.path / dist.RESULTS).write_text(json.dumps(document))
    with pytest.raises(CheckError, match=r"evidence\.json: ") as caught:
        evidence.load(published.path)
    assert caught.value.hint == "run `invoke validate` to make it anew"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / dist.RESULTS).write_bytes(content)
    with pytest.raises(CheckError, match="evidence"):
        evidence.load(tmp_path)


def test_none(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="no evidence in") as caught:
        evidence.load(tmp_path / dist.RESULTS)
    assert caught.value.hint == "run `invoke validate` first"


# Whether a release may be gated on it.


def test_complete(publish: Publish) -> None:
    published = publish({**WHOLE, "rootless": result(scene(), scene("b", "not proven"))})
    assert evidence.complete(published) == []


INCOMPLETE: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"buildx": None}, "suite buildx has not run"),
    "partial": (
        {"buildx": result(partial=True, select="x")},
        "suite buildx has run only in part (--select x)",
    ),
    "failed": ({"buildx": result(scene(), scene("b", "failed"))}, "suite buildx: 1 failed"),
    "aborted": (
        {"buildx": result(aborted="pytest ended early (killed by SIGKILL)")},
        "suite buildx did not run to its end: pytest ended early (killed by SIGKILL)",
    ),
    "nothing": ({"buildx": result(scene(outcome="not proven"))}, "suite buildx: nothing passed"),
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_incomplete_suites(publish: Publish, what: str) -> None:
    changes, why = INCOMPLETE[what]
    results = {name: one for name, one in {**WHOLE, **changes}.items() if one}
    assert evidence.complete(publish(results)) == [why]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d.update(pinned=False), "it is of a development build"),
        (lambda d: d["host"].update(execution="qemu-user"), "programs were emulated one by one"),
        (lambda d: d["host"].update(arch="amd64"), "linux-riscv64 was validated on amd64"),
    ],
)
def test_incomplete_machines(publish: Publish, change: Callable[[Any], object], why: str) -> None:
    published = publish(WHOLE)
    change(published.manifest)
    (reason,) = evidence.complete(published)
    assert reason.startswith(why)


def test_an_emulated_machine_will_do(publish: Publish) -> None:
    published = publish(WHOLE)
    published.manifest["host"]["execution"] = "qemu-system"
    assert evidence.complete(published) == []


# What lies beside it, and is something else.


def other_digest(manifest: dict[str, Any]) -> None:
    manifest["digest"] = f"sha256:{'7' * 64}"


@pytest.mark.parametrize("variant", ["root", "rootless"])
def test_a_new_image_makes_it_stale(publish: Publish, variant: str) -> None:
    published = publish(WHOLE)
    assert evidence.stale(published) == []
    image = dist.image_folder(TARGET, variant)
    edit_manifest(image, other_digest)
    why = f"it is of another {variant} image than the one that is there now"
    assert evidence.stale(published) == [why]
    assert evidence.complete(published) == [why]
    shutil.rmtree(image)
    assert evidence.stale(published) == [why]


def test_other_binaries_make_it_stale(publish: Publish) -> None:
    published = publish(WHOLE)
    why = ["it is of other binaries than those that are there now"]
    manifest = dist.folder(TARGET) / dist.MANIFEST
    for text in (None, "{", "{}", '{"files": 5}'):
        manifest.unlink() if text is None else manifest.write_text(text)
        assert evidence.stale(published) == why


def test_the_page_says_that_it_is_stale(publish: Publish) -> None:
    published = publish(WHOLE)
    page = published.path / pages.INDEX
    with dist.lock(TARGET):
        evidence.tell_stale(TARGET)
        assert "Out of date" not in page.read_text()
        edit_manifest(dist.image_folder(TARGET, "root"), other_digest)
        for _ in range(2):
            evidence.tell_stale(TARGET)
            assert "Out of date" in page.read_text()
    assert evidence.load(published.path).manifest == published.manifest
    listed = (published.path / dist.SUMS).read_text()
    assert f"{storage.sha256(page)}  {pages.INDEX}\n" in listed


def test_nobody_has_to_have_evidence(complete_dist: Path) -> None:
    with dist.lock(TARGET):
        evidence.tell_stale(TARGET)
    assert not dist.evidence_folder(TARGET).exists()
