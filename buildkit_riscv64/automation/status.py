"""`invoke status`: the chain of phases for each target, and what blocks the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import dist
from ..arch import Architecture, Target
from ..errors import CheckError
from . import chain
from .release import refusals


@dataclass(frozen=True)
class Chain:
    """What is there for a target.

    Args:
        target: for what.
        links: of each phase.
    """

    target: Target
    links: Sequence[chain.Link]

    @property
    def blocked(self) -> list[str]:
        """What keeps a release from being made; nothing when all is there."""
        return refusals(self.target, self.links)

    @property
    def next(self) -> str:
        """The command that gets the chain further; none where it has come as far as it can."""
        for link in self.links:
            if link.reasons:
                return chain.remedy(link, self.target)
        return "" if self.blocked else f"invoke release --target {self.target.name}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "target": self.target.name,
            "releasable": not self.blocked,
            "next": self.next,
            "phases": [
                {
                    "name": link.name, "state": link.state, "reasons": list(link.reasons),
                    "remarks": list(link.remarks), **facts(link),
                }
                for link in self.links
            ],
        }  # fmt: skip


def facts(link: chain.Link) -> dict[str, Any]:
    """Of what version it is, made where and when, and the hash that identifies it."""
    manifest = link.manifest
    host: Mapping[str, Any] = manifest.get("host", {})
    when = manifest.get("finished") or manifest.get("build", {}).get("finished")
    return {
        "version": manifest.get("version"),
        "arch": host.get("arch"),
        "execution": host.get("execution"),
        "machine": host.get("distribution"),
        "finished": when,
        "sha256": identity(link),
    }


def identity(link: chain.Link) -> dict[str, str]:
    """The hashes by which the next phase knows it."""
    manifest = link.manifest
    if "digest" in manifest:
        return {"digest": manifest["digest"]}
    if "suites" in manifest:
        return {"of": manifest["binaries"]["buildkitd"]}
    return {
        file["name"]: file["sha256"]
        for file in manifest.get("files", [])
        if file["name"].startswith("bin/") or file["name"].endswith((".deb", ".rpm"))
    }


def chains(target: str) -> list[Chain]:
    """The chains of a target, or of all that there are.

    Raises:
        UsageError: there is no such target.
        CheckError: nothing has been built.
    """
    wanted = [Target.parse(target)] if target else dist.targets()
    if not wanted:
        here = Target(Architecture.here())
        raise CheckError("nothing has been built yet", f"invoke {'' if here.arch is Architecture.RISCV64 else 'on riscv64 -- '}build-binaries")  # fmt: skip
    return [Chain(one, chain.links(one)) for one in wanted]
