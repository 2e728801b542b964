from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem, host, html, project
from buildkit_riscv64.core.errors import CheckError, Failure
from buildkit_riscv64.validation import evidence, page, versions
from buildkit_riscv64.validation.artifacts import Subject
from buildkit_riscv64.validation.suites import SUITES, Suite

from ..factories import edit_manifest
from .factories import TARGET, Publish, result, scene

WHOLE = {name: result() for name in SUITES}


def test_document(found: Subject) -> None:
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


def test_versions_of_several_suites(found: Subject) -> None:
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


# Earlier evidence.

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


@pytest.mark.parametrize("case", EARLIER)
def test_earlier_results(found: Subject, case: str) -> None:
    change, lost = EARLIER[case]
    earlier, _ = evidence.assemble(found, WHOLE, None)
    change(earlier)
    now = result(scene("test_now"))
    document, dropped = evidence.assemble(found, {"platforms": now}, earlier)
    assert document["suites"]["platforms"] == now
    assert dropped == sorted(set(lost) - {"platforms"})
    assert set(document["suites"]) == set(SUITES) - set(dropped)


def test_former_suite_is_dropped(found: Subject) -> None:
    earlier, _ = evidence.assemble(found, WHOLE, None)
    earlier["suites"]["former"] = result()
    _, dropped = evidence.assemble(found, {"buildx": result()}, earlier)
    assert dropped == ["former"]


# Published evidence.


def test_published_evidence_is_valid(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / evidence.junit("standalone")).write_text("<new/>")
    published = publish({"standalone": result(), "buildx": result()}, tmp_path / "made")
    assert published.path == dist.evidence_directory(TARGET)
    assert evidence.load(published.path).manifest == published.manifest
    assert evidence.load(published.path / dist.RESULTS).manifest == published.manifest
    assert (published.path / evidence.junit("standalone")).read_text() == "<new/>"
    again = publish({"buildx": result()})
    assert (again.path / evidence.junit("standalone")).read_text() == "<new/>"


def test_invalid_evidence_is_not_published(publish: Publish) -> None:
    publish({"standalone": result()})
    before = dist.load(dist.evidence_directory(TARGET)).manifest
    with pytest.raises(Failure, match=r"evidence.*outcome"):
        publish({"standalone": result(scene(outcome="maybe"), counts=result()["counts"])})
    assert dist.load(dist.evidence_directory(TARGET)).manifest == before
    assert not list(project.DIST.glob(".*staging*"))


def test_copied_evidence_can_be_loaded(publish: Publish, tmp_path: Path) -> None:
    published = publish(WHOLE)
    shutil.copytree(published.path, tmp_path / "elsewhere")
    assert evidence.load(tmp_path / "elsewhere").manifest == published.manifest


def damage(document: dict[str, Any], *path: str, value: Any = None) -> None:
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
    damage(document, *path)
    (published.path / dist.RESULTS).write_text(json.dumps(document))
    with pytest.raises(CheckError, match=r"evidence\.json") as caught:
        evidence.load(published.path)
    assert "`invoke validate`" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / dist.RESULTS).write_bytes(content)
    with pytest.raises(CheckError, match="evidence"):
        evidence.load(tmp_path)


def test_missing_evidence(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=str(tmp_path)) as caught:
        evidence.load(tmp_path / dist.RESULTS)
    assert caught.value.hint == "run `invoke validate` first"


# Release blockers.


@pytest.mark.parametrize("allowed", [True, False])
def test_scenario_that_is_not_proven(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setattr(Suite, "scenarios", lambda _self: {("cache", "test_one"): allowed})
    scenes = [scene("test_one[a]"), scene("test_one[b]", "not proven")]
    published = publish({**WHOLE, "rootless": result(*scenes)})
    assert (evidence.complete(published) == []) is allowed


@pytest.mark.parametrize(
    ("scenes", "name"),
    [
        ([scene("test_other")], "cache::test_one"),
        ([scene(), scene("test_invented")], "cache::test_invented"),
        ([scene(), scene(group="faults")], "faults::test_one"),
    ],
)
def test_other_scenarios_than_those_of_the_checkout(
    publish: Publish, scenes: list[dict[str, Any]], name: str
) -> None:
    found = evidence.complete(publish({**WHOLE, "rootless": result(*scenes)}))
    assert any(f"suite rootless: {name} " in reason for reason in found)


INCOMPLETE: dict[str, dict[str, Any]] = {
    "has not run": {"buildx": None},
    "--select x": {"buildx": result(partial=True, select="x")},
    "1 failed": {"buildx": result(scene(), scene("test_one[b]", "failed"))},
    "killed by SIGKILL": {"buildx": result(aborted="killed by SIGKILL")},
    "nothing passed": {"buildx": result(scene(outcome="not proven"))},
}


def test_another_suite(publish: Publish) -> None:
    published = publish(WHOLE)
    path = published.path / dist.RESULTS
    document = json.loads(path.read_text())
    document["suites"]["invented"] = document["suites"]["standalone"]
    filesystem.write_json(path, document)
    (why,) = evidence.complete(evidence.load(path))
    assert "invented" in why
    assert "invented" in page.render(document)


@pytest.mark.parametrize("reason", INCOMPLETE)
def test_incomplete_suites(publish: Publish, reason: str) -> None:
    results = {name: one for name, one in {**WHOLE, **INCOMPLETE[reason]}.items() if one}
    blockers = evidence.complete(publish(results))
    assert all(blocker.startswith("suite buildx") for blocker in blockers)
    assert reason in blockers[0]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda d: d.update(pinned=False), "development build"),
        (lambda d: d["host"].update(execution="qemu-user"), "qemu-user"),
        (lambda d: d["host"].update(arch="amd64"), "linux-riscv64 was validated on amd64"),
    ],
)
def test_incomplete_machines(publish: Publish, change: Callable[[Any], object], fact: str) -> None:
    published = publish(WHOLE)
    change(published.manifest)
    (reason,) = evidence.complete(published)
    assert fact in reason


def test_emulated_machine_is_valid(publish: Publish) -> None:
    published = publish(WHOLE)
    published.manifest["host"]["execution"] = "qemu-system"
    assert evidence.complete(published) == []


# Outdated evidence.


def other_digest(manifest: dict[str, Any]) -> None:
    manifest["digest"] = f"sha256:{'7' * 64}"


@pytest.mark.parametrize("variant", ["root", "rootless"])
def test_another_image_makes_evidence_stale(publish: Publish, variant: str) -> None:
    published = publish(WHOLE)
    assert evidence.stale(published) == []
    image = dist.image_directory(TARGET, variant)
    edit_manifest(image, other_digest)
    (reason,) = evidence.stale(published)
    assert f"{variant} image" in reason
    assert evidence.complete(published) == [reason]
    shutil.rmtree(image)
    assert evidence.stale(published) == [reason]


def test_other_binaries_make_evidence_stale(publish: Publish) -> None:
    published = publish(WHOLE)
    manifest = dist.directory(TARGET) / dist.MANIFEST
    for text in (None, "{", "{}", '{"files": 5}'):
        manifest.unlink() if text is None else manifest.write_text(text)
        (reason,) = evidence.stale(published)
        assert "binaries" in reason


def test_page_of_stale_evidence(publish: Publish) -> None:
    published = publish(WHOLE)
    page = published.path / html.INDEX
    with dist.lock(TARGET):
        evidence.mark_stale(TARGET)
        assert "Out of date" not in page.read_text()
        edit_manifest(dist.image_directory(TARGET, "root"), other_digest)
        for _ in range(2):
            evidence.mark_stale(TARGET)
            assert "Out of date" in page.read_text()
    assert evidence.load(published.path).manifest == published.manifest
    listed = (published.path / dist.SUMS).read_text()
    assert f"{filesystem.sha256(page)}  {html.INDEX}\n" in listed


def test_marking_missing_evidence(complete_dist: Path) -> None:
    with dist.lock(TARGET):
        evidence.mark_stale(TARGET)
    assert not dist.evidence_directory(TARGET).exists()
