"""CycloneDX SBOMs, made from what Go's linker recorded in the programs themselves."""

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

from ..project import MAKER


def hashes(sha256: str) -> list[HashType]:
    """A digest, as components have it."""
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _purl(path: str, version: str | None, subpath: str | None = None) -> PackageURL:
    namespace, _, name = path.rpartition("/")
    return PackageURL("golang", namespace.lower() or None, name.lower(), version, subpath=subpath)


def _module(module: Mapping[str, Any]) -> Component:
    """A module that is linked in; what replaces it, where something does."""
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
    """A static library of which something is linked in."""
    purl = PackageURL.from_string(library["package"]) if library["package"] else None
    return Component(
        type=ComponentType.LIBRARY, name=library["file"], version=purl.version if purl else None,
        purl=purl, hashes=hashes(library["sha256"]), bom_ref=library["file"],
    )  # fmt: skip


def bill_of_materials(
    command: str, sha256: str, version: str, info: Mapping[str, Any], time: datetime,
    libraries: Sequence[Mapping[str, Any]] = (),
) -> str:  # fmt: skip
    """The SBOM of a program, as CycloneDX 1.6 JSON; the same input gives the same text.

    Args:
        command: the program's name.
        sha256: its digest.
        version: of the module that it comes from.
        info: its build information, from :func:`.elf.read_build_info`.
        time: the date it carries.
        libraries: those of C, as a manifest has them.
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
    """An SBOM as CycloneDX 1.6 JSON; the same input gives the same text.

    Args:
        subject: what it is of.
        parts: what that consists of.
        sha256: the subject's digest.
        time: the date it carries.
    """
    maker = Component(type=ComponentType.APPLICATION, name=MAKER)
    bom = Bom(
        metadata=BomMetaData(
            component=subject, timestamp=time, tools=ToolRepository(components=[maker])
        ),
        components=parts,
    )
    # A serial number identifies one document; deriving it from the subject
    # keeps the document reproducible.
    bom.serial_number = UUID(hex=sha256[:32], version=4)
    bom.register_dependency(subject, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
