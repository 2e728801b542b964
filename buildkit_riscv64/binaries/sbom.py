"""CycloneDX SBOMs, made from what Go's linker recorded in the programs themselves."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ..pins import MODULE
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


def bill_of_materials(
    command: str, sha256: str, version: str, info: Mapping[str, Any], time: datetime
) -> str:
    """The SBOM of a program, as CycloneDX 1.6 JSON; the same input gives the same text.

    Args:
        command: the program's name.
        sha256: its digest.
        version: upstream's version.
        info: its build information, from :func:`.elf.read_build_info`.
        time: the date it carries.
    """
    purl = _purl(MODULE, version, f"cmd/{command}")
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
    modules = [_module(module) for module in info.get("Deps") or []]
    maker = Component(type=ComponentType.APPLICATION, name=MAKER)
    bom = Bom(
        metadata=BomMetaData(
            component=program, timestamp=time, tools=ToolRepository(components=[maker])
        ),
        components=[standard_library, *modules],
    )
    # A serial number identifies one document; deriving it from the program
    # keeps the document reproducible.
    bom.serial_number = UUID(hex=sha256[:32], version=4)
    bom.register_dependency(program, [standard_library, *modules])
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
