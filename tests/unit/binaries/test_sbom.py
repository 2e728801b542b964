from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from buildkit_riscv64.binaries import sbom
from buildkit_riscv64.core.arch import Target

from ..factories import SUM, TIME, C, build_info

TARGET = Target.parse("linux-riscv64")
SHA256 = "ab" * 32


def document(**changes: Any) -> dict[str, Any]:
    info = build_info("buildctl", TARGET) | changes
    text = sbom.bill_of_materials("buildctl", SHA256, "v0.32.2", info, TIME)
    assert text.endswith("}\n")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_program() -> None:
    bom = document()
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    program = bom["metadata"]["component"]
    assert (program["name"], program["type"], program["version"]) == (
        "buildctl", "application", "v0.32.2",
    )  # fmt: skip
    assert program["purl"] == "pkg:golang/github.com/moby/buildkit@v0.32.2#cmd/buildctl"
    assert program["hashes"] == [{"alg": "SHA-256", "content": SHA256}]
    assert {"name": "go:build:GOARCH", "value": "riscv64"} in program["properties"]
    assert bom["metadata"]["timestamp"] == "2026-08-04T12:27:40+00:00"


def test_linked_modules() -> None:
    bom = document()
    components = {component["name"]: component for component in bom["components"]}
    assert set(components) == {"std", "github.com/Azure/azure-sdk", "example.com/fork"}
    assert components["std"]["version"] == "1.26.10"
    azure = components["github.com/Azure/azure-sdk"]
    assert azure["purl"] == "pkg:golang/github.com/azure/azure-sdk@v1.0.0"
    digest = base64.b64decode(SUM.removeprefix("h1:")).hex()
    assert azure["hashes"] == [{"alg": "SHA-256", "content": digest}]
    (edges,) = [d for d in bom["dependencies"] if d["ref"] == bom["metadata"]["component"]["bom-ref"]]  # fmt: skip
    assert sorted(edges["dependsOn"]) == sorted(c["bom-ref"] for c in components.values())


def test_replacement_of_a_module_is_listed() -> None:
    (fork,) = [c for c in document()["components"] if c["name"] == "example.com/fork"]
    assert fork["version"] == "v1.0.1"


def test_module_without_hash_or_version() -> None:
    bom = document(Deps=[{"Path": "local", "Version": "(devel)"}, {"Path": "x", "Replace": {"Path": "./x"}}])  # fmt: skip
    assert {component["name"] for component in bom["components"]} == {"std", "local", "./x"}


def test_program_without_modules() -> None:
    assert [component["name"] for component in document(Deps=None)["components"]] == ["std"]


@pytest.mark.parametrize(
    ("command", "purl"),
    [
        ("buildkit-runc", "pkg:golang/github.com/opencontainers/runc@v9.9.9"),
        ("buildkit-cni-host-local", "pkg:golang/github.com/containernetworking/plugins@v9.9.9#plugins/ipam/host-local"),
        ("rootlesskit", "pkg:golang/github.com/rootless-containers/rootlesskit/v3@v9.9.9#cmd/rootlesskit"),
    ],
)  # fmt: skip
def test_purl_of_a_bundle_program_has_its_module(command: str, purl: str) -> None:
    info = build_info(command, TARGET)
    bom = json.loads(sbom.bill_of_materials(command, SHA256, "v9.9.9", info, TIME))
    program = bom["metadata"]["component"]
    assert (program["name"], program["purl"]) == (command, purl)


def test_linked_c_libraries_are_listed() -> None:
    info = build_info("buildkit-runc", TARGET)
    text = sbom.bill_of_materials("buildkit-runc", SHA256, "v1.4.3", info, TIME, C["libraries"])
    bom = json.loads(text)
    components = {component["name"]: component for component in bom["components"]}
    assert components["libc.a"]["version"] == "2.41-12"
    assert components["libc.a"]["purl"] == "pkg:deb/debian/libc6-dev@2.41-12?arch=riscv64"
    assert components["libc.a"]["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    # A library without a package has only its name.
    assert "purl" not in components["libseccomp.a"]
    (edges,) = [d for d in bom["dependencies"] if d["ref"] == bom["metadata"]["component"]["bom-ref"]]  # fmt: skip
    assert {"libc.a", "libseccomp.a"} <= set(edges["dependsOn"])


def test_same_program_has_the_same_bom() -> None:
    assert document() == document()
    info = build_info("buildctl", TARGET)
    texts = {sbom.bill_of_materials("buildctl", SHA256, "v0.32.2", info, TIME) for _ in range(3)}
    texts.add(sbom.bill_of_materials("buildctl", "cd" * 32, "v0.32.2", info, TIME))
    assert len(texts) == 2
    assert document()["serialNumber"].startswith("urn:uuid:abababab-abab-4bab-")
