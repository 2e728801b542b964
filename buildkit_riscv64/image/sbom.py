"""The CycloneDX SBOM of an image: Debian's packages and BuildKit's commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from ..binaries.sbom import document, hashes
from ..core.pins import MODULE
from ..system import debian
from .packages import Package


def _package(package: Package) -> Component:
    # https://github.com/package-url/purl-spec/blob/main/types-doc/deb-definition.md
    qualifiers = {"arch": package.architecture, "distro": debian.SUITE}
    purl = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    return Component(
        type=ComponentType.LIBRARY, name=package.name, version=package.version, purl=purl,
        bom_ref=purl.to_string(), hashes=hashes(package.sha256),
    )  # fmt: skip


def _command(command: str, version: str, sha256: str) -> Component:
    namespace, _, name = MODULE.rpartition("/")
    purl = PackageURL("golang", namespace, name, version, subpath=f"cmd/{command}")
    return Component(
        type=ComponentType.APPLICATION, name=command, version=version, purl=purl,
        bom_ref=purl.to_string(), hashes=hashes(sha256),
    )  # fmt: skip


def bill_of_materials(
    name: str,
    digest: str,
    version: str,
    binaries: Mapping[str, str],
    packages: Sequence[Package],
    time: datetime,
) -> str:
    """The SBOM of an image, as reproducible CycloneDX 1.6 JSON.

    The SBOMs of the commands, beside the binaries, list the linked modules.

    Args:
        name: the image's name.
        digest: of the manifest, such as `sha256:…`.
        version: upstream's version.
        binaries: sha256 of BuildKit's commands.
        packages: Debian's packages in the image.
        time: the document's timestamp.
    """
    value = digest.removeprefix("sha256:")
    purl = PackageURL("oci", None, name, digest)
    image = Component(
        type=ComponentType.CONTAINER, name=name, version=version, purl=purl,
        bom_ref=purl.to_string(), hashes=hashes(value),
    )  # fmt: skip
    parts = [
        *(_command(command, version, sha256) for command, sha256 in binaries.items()),
        *map(_package, packages),
    ]
    return document(image, parts, value, time)
