"""CycloneDX SBOMs, from the build information in the programs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ..core.project import MAKER


def hashes(sha256: str) -> list[HashType]:
    """The hashes of a component."""
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _purl(path: str, version: str | None, subpath: str | None = None) -> PackageURL:
    namespace, _, name = path.rpartition("/")
    return PackageURL("golang", namespace.lower() or None, name.lower(), version, subpath=subpath)


def _module(module: Mapping[str, Any]) -> Component:
    """A linked module, or its replacement."""
    effective = module.get("Replace") or module
    path, version = effective["Path"], effective.get("Version")
    purl = _purl(path, version)
    # Go's "h1:" is the base64 of a SHA-256 over the module's file list.
    digest = base64.b64decode(effective.get("Sum", "").removeprefix("h1:")).hex()
    return Component(
        type=ComponentType.LIBRARY, name=path, version=version, purl=purl,
        bom_ref=purl.to_string(), hashes=hashes(digest) if digest else [],
    )  # fmt: skip


def _library(library: Mapping[str, Any]) -> Component:
    """A statically linked C library."""
    purl = PackageURL.from_string(library["package"]) if library["package"] else None
    return Component(
        type=ComponentType.LIBRARY, name=library["file"], version=purl.version if purl else None,
        purl=purl, hashes=hashes(library["sha256"]), bom_ref=library["file"],
    )  # fmt: skip


def bill_of_materials(
    command: str,
    sha256: str,
    version: str,
    info: Mapping[str, Any],
    time: datetime,
    libraries: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The SBOM of a program, as reproducible CycloneDX 1.6 JSON.

    Args:
        command: the program's name.
        sha256: of the program.
        version: of the program's module.
        info: the build information, from :func:`.elf.read_build_info`.
        time: the document's timestamp.
        libraries: the C libraries, from a manifest.
    """
    module = info["Main"]["Path"]
    purl = _purl(module, version, info["Path"].removeprefix(module).strip("/") or None)
    program = Component(
        type=ComponentType.APPLICATION, name=command, version=version, purl=purl,
        bom_ref=purl.to_string(), hashes=hashes(sha256),
        properties=[
            Property(name=f"go:build:{key}", value=value)
            for key, value in info["Settings"].items()
        ],
    )  # fmt: skip
    standard_library = _module(
        {"Path": "std", "Version": info["GoVersion"].removeprefix("go").split()[0]}
    )
    parts = [
        standard_library,
        *map(_module, info.get("Deps") or []),
        *map(_library, libraries),
    ]
    return document(program, parts, sha256, time)


def document(subject: Component, parts: Sequence[Component], sha256: str, time: datetime) -> str:
    """An SBOM as reproducible CycloneDX 1.6 JSON.

    Args:
        subject: the component it describes.
        parts: the components in it.
        sha256: of the subject.
        time: the document's timestamp.
    """
    maker = Component(type=ComponentType.APPLICATION, name=MAKER)
    bom = Bom(
        metadata=BomMetaData(
            component=subject, timestamp=time, tools=ToolRepository(components=[maker])
        ),
        components=parts,
    )
    # The serial number comes from the subject, which keeps the document reproducible.
    bom.serial_number = UUID(hex=sha256[:32], version=4)
    bom.register_dependency(subject, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
