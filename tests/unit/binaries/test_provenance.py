from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import provenance
from buildkit_riscv64.core import dist, filesystem
from buildkit_riscv64.core.arch import Target

from ..factories import COMMIT, SUM, record_of_bundle


@pytest.fixture
def manifest(finished: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((finished / dist.MANIFEST).read_text())
    return read


def test_statement(manifest: dict[str, Any]) -> None:
    statement = json.loads(provenance.statement(manifest))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": file["name"], "digest": {"sha256": file["sha256"]}} for file in manifest["files"]
    ]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "source": "module", "target": "linux-riscv64", "via": "go",
    }  # fmt: skip
    assert definition["internalParameters"]["flags"] == manifest["build"]["flags"]
    assert definition["internalParameters"]["host"]["arch"] == "riscv64"
    upstream, go = definition["resolvedDependencies"]
    assert upstream == {
        "name": "buildkit", "uri": "pkg:golang/github.com/moby/buildkit@v0.32.2",
        "digest": {"gitCommit": COMMIT, "dirHash": SUM},
    }  # fmt: skip
    assert go == {"name": "go", "uri": "pkg:golang/toolchain@go1.26.10"}
    details = statement["predicate"]["runDetails"]
    execution = manifest["host"]["execution"]
    assert details["builder"]["id"] == f"tag:buildkit-riscv64,2026:execution/{execution}"
    assert details["metadata"]["startedOn"] == manifest["build"]["started"]


def test_written_statement_has_the_binaries_as_subjects(
    finished: Path, manifest: dict[str, Any]
) -> None:
    statement = json.loads((finished / dist.PROVENANCE).read_text())
    named = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert named.keys() == {file["name"] for file in manifest["files"]} - {dist.PROVENANCE}
    for name, digest in named.items():
        assert filesystem.sha256(finished / name) == digest


def test_dirty_checkout_names_its_commit(manifest: dict[str, Any]) -> None:
    manifest["revision"] += ".m"
    manifest["source"] |= {"sum": "", "kind": "path"}
    manifest["go"]["sum"] = "h1:go"
    definition = json.loads(provenance.statement(manifest))["predicate"]["buildDefinition"]
    upstream, go = definition["resolvedDependencies"]
    assert upstream["digest"] == {"gitCommit": COMMIT}
    assert go["digest"] == {"dirHash": "h1:go"}


def test_same_manifest_has_the_same_statement(manifest: dict[str, Any]) -> None:
    assert provenance.statement(manifest) == provenance.statement(manifest)


def test_dependencies_of_a_bundle(manifest: dict[str, Any]) -> None:
    manifest["bundle"] = record_of_bundle(Target.parse("linux-riscv64"))
    manifest["bundle"]["components"][2] |= {"revision": COMMIT}
    definition = json.loads(provenance.statement(manifest))["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["bundle"] is True
    _, _, runc, libc, libseccomp, plugins, rootlesskit = definition["resolvedDependencies"]
    assert runc == {
        "name": "runc", "uri": "pkg:golang/github.com/opencontainers/runc@v1.4.3",
        "digest": {"dirHash": SUM},
    }  # fmt: skip
    assert libc == {
        "name": "libc.a", "uri": "pkg:deb/debian/libc6-dev@2.41-12?arch=riscv64",
        "digest": {"sha256": "1" * 64},
    }  # fmt: skip
    assert libseccomp == {"name": "libseccomp.a", "digest": {"sha256": "2" * 64}}
    assert plugins["name"] == "cni-plugins"
    assert rootlesskit["digest"] == {"dirHash": SUM, "gitCommit": COMMIT}


def test_statement_without_subjects_is_refused(manifest: dict[str, Any]) -> None:
    manifest["files"] = []
    with pytest.raises(ValueError, match="subject"):
        provenance.statement(manifest)
