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


def _purl(path: str, version: str | None, subpath: str | None = None) -> PackageURL:
    namespace, _, name = path.rpartition("/")
    return PackageURL("golang", namespace.lower() or None, name.lower(), version, subpath=subpath)


def _module(module: Mapping[str, Any]) -> Component:
    """A module that is linked in; what replaces it, where something does."""
    effective = module.get("Replace") or module
    path, version = effective["Path"], effective.get("Version")
    purl = _purl(path, version)
    hashes = []
    if dirhash := effective.get("Sum"):
        # Go's "h1:" is the base64 of a SHA-256 over the module's file list.
        digest = base64.b64decode(dirhash.removeprefix("h1:")).hex()
        hashes.append(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    return Component(
        type=ComponentType.LIBRARY, name=path, version=version, purl=purl, hashes=hashes,
        bom_ref=purl.to_string(),
    )  # fmt: skip


def _library(library: Mapping[str, Any]) -> Component:
    """A static library of which something is linked in."""
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=library["sha256"])]
    purl = PackageURL.from_string(library["package"]) if library["package"] else None
    return Component(
        type=ComponentType.LIBRARY, name=library["file"], version=purl.version if purl else None,
        purl=purl, hashes=hashes, bom_ref=library["file"],
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
        bom_ref=purl.to_string(), hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
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
    maker = Component(type=ComponentType.APPLICATION, name=MAKER)
    bom = Bom(
        metadata=BomMetaData(
            component=program, timestamp=time, tools=ToolRepository(components=[maker])
        ),
        components=parts,
    )
    # A serial number identifies one document; deriving it from the program
    # keeps the document reproducible.
    bom.serial_number = UUID(hex=sha256[:32], version=4)
    bom.register_dependency(program, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
