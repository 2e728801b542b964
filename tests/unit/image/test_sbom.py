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


def test_it_is_of_the_image() -> None:
    made = json.loads(text())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    image = made["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == (
        "container", "buildkit-riscv64", "v0.32.2",
    )  # fmt: skip
    assert image["purl"] == f"pkg:oci/buildkit-riscv64@{DIGEST}"
    assert image["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert made["metadata"]["timestamp"] == "2026-08-04T12:27:40+00:00"
    assert made["metadata"]["tools"]["components"][0]["name"] == "buildkit-riscv64"


def test_it_lists_packages_and_commands() -> None:
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


def test_the_image_depends_on_all_of_them() -> None:
    made = json.loads(text())
    (parts,) = [one["dependsOn"] for one in made["dependencies"] if "dependsOn" in one]
    assert sorted(parts) == sorted(one["bom-ref"] for one in made["components"])


def test_the_same_gives_the_same() -> None:
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
def test_something_else_gives_something_else(changes: dict[str, Any]) -> None:
    assert text(**changes) != text()


def test_the_number_is_the_images() -> None:
    def number(digest: str) -> str:
        return str(json.loads(text(digest=digest))["serialNumber"])

    assert number(DIGEST).startswith("urn:uuid:abababab-")
    assert number(DIGEST) != number(f"sha256:{'cd' * 32}")
