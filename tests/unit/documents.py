"""Small valid documents, one of each kind, for tests to change, damage or publish."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from buildkit_riscv64.core import dist

SHA = "a" * 64
DIGEST = f"sha256:{SHA}"
REVISION = "b" * 40
TIME = "2026-08-04T12:27:40Z"
KEY = "C" * 40
HOST: dict[str, Any] = {
    "arch": "riscv64", "execution": "native", "kernel": "Linux 6.12", "cpu": "a board", "cpus": 8,
    "memory_bytes": 16 << 30, "distribution": "Debian GNU/Linux 13 (trixie)",
}  # fmt: skip
_COMMON = {"target": "linux-riscv64", "version": "v0.32.2", "revision": REVISION, "host": HOST}
_TIMES = {"started": TIME, "finished": TIME, "seconds": 1.5}
_COMMANDS = dict.fromkeys(dist.COMMANDS, SHA)
_TOOLS = ("kernel", "docker", "buildx", "runc", "rootlesskit", "slirp4netns", "fuse-overlayfs", "qemu-user")  # fmt: skip


def _file(name: str) -> dict[str, Any]:
    return {"name": name, "size": 1, "sha256": SHA}


BINARIES: Mapping[str, Any] = {
    **_COMMON,
    "manifest_version": 1,
    "source": {
        "kind": "module", "location": "github.com/moby/buildkit@v0.32.2", "sum": "h1:x", "dirty": False,
        "pinned": True, "time": TIME,
    },
    "go": {"version": "go1.26.10", "origin": "system", "sum": ""},
    "build": {"via": "go", "flags": [], "environment": {}, "inputs": DIGEST, **_TIMES},
    "files": [_file(dist.binary(name)) for name in dist.COMMANDS],
}  # fmt: skip
IMAGE: Mapping[str, Any] = {
    **_COMMON,
    "manifest_version": 1, "variant": "root", "pinned": True, "created": TIME, "epoch": 1,
    "digest": DIGEST, "layers": [{"digest": DIGEST, "size": 1, "unpacked": 1}], "size": 1, "unpacked": 1,
    "binaries": _COMMANDS, "security_updates": True,
    "packages": [{"name": "git", "version": "1", "architecture": "all", "sha256": SHA, "size": 1, "only": ""}],
    "build": {"engine": "buildkit", "base": {"origin": "rootfs", "digest": DIGEST}, "inputs": DIGEST, **_TIMES},
    "files": [_file("sbom.cdx.json")],
}  # fmt: skip
EVIDENCE: Mapping[str, Any] = {
    **_COMMON,
    "evidence_version": 1, "pinned": True, "binaries": _COMMANDS, "images": {"root": DIGEST, "rootless": None},
    "inputs": {"binaries": DIGEST}, "started": TIME, "finished": TIME, "cgroup_version": 2,
    "versions": dict.fromkeys(_TOOLS), "counts": {"passed": 1, "failed": 0, "not proven": 0},
    "suites": {
        "standalone": {
            **_TIMES, "partial": False, "select": "", "online": False, "aborted": "",
            "versions": dict.fromkeys(_TOOLS), "counts": {"passed": 1, "failed": 0, "not proven": 0},
            "scenarios": [
                {"group": "one", "name": "it_works", "title": "It works", "outcome": "passed", "seconds": 1.0, "reason": "",
                 "failure": "", "logs": []}
            ],
        }
    },
}  # fmt: skip
PACKAGES: Mapping[str, Any] = {
    **_COMMON,
    "packages_version": 1, "package_version": "0.32.2-1", "pinned": True, "time": TIME, "binaries": _COMMANDS,
    "build": {"inputs": DIGEST, "finished": TIME},
    "files": [
        {**_file(f"buildkit{number}.{form}"), "package": "buildkit", "format": form, "version": "0.32.2-1",
         "arch": "riscv64"}
        for number in (1, 2) for form in ("deb", "rpm")
    ],
}  # fmt: skip
RELEASE: Mapping[str, Any] = {
    **_COMMON, "release_version": 1, "tag": "v0.32.2", "title": "BuildKit", "key": KEY,
    "files": [{**_file("buildctl"), "what": "a program"}],
}  # fmt: skip
REPOSITORY: Mapping[str, Any] = {
    "repository_version": 1, "url": "", "signed_by": KEY, "packages": {"linux-riscv64": "0.32.2-1"},
    "build": {"inputs": DIGEST}, "files": [_file("deb/Packages")],
}  # fmt: skip
CROSS_CHECK: Mapping[str, Any] = {
    "target": "linux-riscv64", "version": "v0.32.2", "identical": True, "compiled_on": HOST, "checked_on": HOST,
    "checked_at": TIME, "seconds": 1.0,
    "files": [
        {"name": dist.binary(name), "artifact_sha256": SHA, "compiled_again_sha256": SHA}
        for name in dist.COMMANDS
    ],
}  # fmt: skip
MACHINE: Mapping[str, Any] = {
    "id": "d" * 32, "base": "base-1", "created": 1, "cpus": 2, "memory": "4G", "disk": "40G",
}  # fmt: skip


def valid(document: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a document, with changed top-level keys."""
    return {**copy.deepcopy(dict(document)), **changes}


def on_host(document: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a document, with changed keys of its host."""
    return valid(document, host={**HOST, **changes})
