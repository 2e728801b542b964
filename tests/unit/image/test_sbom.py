from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from buildkit_riscv64.image import sbom
from buildkit_riscv64.image.packages import Package

DIGEST = f"sha256:{'ab' * 32}"
PACKAGES = [
    Package(name="git", version="1:2.47.3-0+deb13u1", architecture="riscv64", sha256="c" * 64, size=1),
    Package(name="ca-certificates", version="20250419", architecture="all", sha256="d" * 64, size=1),
    Package(name="util-linux", version="2.41-5", architecture="riscv64", sha256="e" * 64, size=1, only="usr/bin/unshare"),
]  # fmt: skip


def text(**changes: Any) -> str:
    values: dict[str, Any] = {
        "name": "buildkit-riscv64", "digest": DIGEST, "version": "v0.32.2",
        "binaries": {"buildctl": "1" * 64, "buildkitd": "2" * 64}, "packages": PACKAGES,
        "time": datetime(2026, 8, 4, 12, 27, 40, tzinfo=UTC),
    }  # fmt: skip
    return sbom.bill_of_materials(**values | changes)


def hashes(digit: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digit * 64}]


def test_subject_is_the_image() -> None:
    document = json.loads(text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    image = document["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == (
        "container", "buildkit-riscv64", "v0.32.2",
    )  # fmt: skip
    assert image["purl"] == f"pkg:oci/buildkit-riscv64@{DIGEST}"
    assert image["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert document["metadata"]["timestamp"] == "2026-08-04T12:27:40+00:00"
    assert document["metadata"]["tools"]["components"][0]["name"] == "buildkit-riscv64"


def test_packages_and_commands_are_listed() -> None:
    found = {one["name"]: one for one in json.loads(text())["components"]}
    assert sorted(found) == ["buildctl", "buildkitd", "ca-certificates", "git", "util-linux"]
    git = found["git"]
    assert (git["type"], git["version"], git["hashes"]) == (
        "library", "1:2.47.3-0+deb13u1", hashes("c")
    )  # fmt: skip
    assert git["purl"] == ("pkg:deb/debian/git@1:2.47.3-0%2Bdeb13u1?arch=riscv64&distro=trixie")
    assert "arch=all" in found["ca-certificates"]["purl"]
    daemon = found["buildkitd"]
    assert (daemon["type"], daemon["version"], daemon["hashes"]) == (
        "application", "v0.32.2", hashes("2")
    )  # fmt: skip
    assert daemon["purl"] == "pkg:golang/github.com/moby/buildkit@v0.32.2#cmd/buildkitd"


def test_image_depends_on_every_component() -> None:
    document = json.loads(text())
    (parts,) = [one["dependsOn"] for one in document["dependencies"] if "dependsOn" in one]
    assert sorted(parts) == sorted(one["bom-ref"] for one in document["components"])


def test_same_input_gives_the_same_document() -> None:
    assert text() == text()
    assert text(packages=PACKAGES[::-1]) == text()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "v0.32.3"}, {"packages": PACKAGES[:1]},
        {"binaries": {"buildctl": "3" * 64, "buildkitd": "2" * 64}},
        {"time": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)  # fmt: skip
def test_different_input_gives_another_document(changes: dict[str, Any]) -> None:
    assert text(**changes) != text()


def test_serial_number_comes_from_the_image() -> None:
    def number(digest: str) -> str:
        return str(json.loads(text(digest=digest))["serialNumber"])

    assert number(DIGEST).startswith("urn:uuid:abababab-")
    assert number(DIGEST) != number(f"sha256:{'cd' * 32}")
