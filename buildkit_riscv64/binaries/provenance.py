"""SLSA provenance v1 of the binaries, as an in-toto statement.

The format is https://slsa.dev/spec/v1.0/provenance; `docs/artifacts.md` documents
our fields. The statement itself is unsigned: releases are signed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, MessageToJson, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

from ..core.dist import PROFILE
from ..core.pins import MODULE
from ..core.project import MAKER

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
#: Defines our externalParameters; a tag URI needs no server (RFC 4151).
BUILD_TYPE = f"tag:{MAKER},2026:build-binaries/v1"


def _bundle(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The bundle's dependencies, if the manifest has a bundle."""
    for one in manifest.get("bundle", {}).get("components", []):
        commit = {"gitCommit": one["revision"]} if one["revision"] else {}
        yield {
            "name": one["name"],
            "uri": f"pkg:golang/{one['module']}@{one['version']}",
            "digest": {"dirHash": one["sum"], **commit},
        }
        for library in one.get("c", {}).get("libraries", []):
            digest = {"sha256": library["sha256"]}
            yield {"name": library["file"], "uri": library["package"], "digest": digest}


def statement(manifest: Mapping[str, Any]) -> str:
    """The statement about every file of a manifest, as JSON.

    Args:
        manifest: a target's manifest.
    """
    source, go, build = manifest["source"], manifest["go"], manifest["build"]
    upstream: dict[str, Any] = {
        "name": "buildkit",
        "uri": f"pkg:golang/{MODULE}@{manifest['version']}",
        "digest": {"gitCommit": manifest["revision"].removesuffix(".m")},
    }
    if source["sum"]:
        upstream["digest"]["dirHash"] = source["sum"]
    toolchain: dict[str, Any] = {"name": "go", "uri": f"pkg:golang/toolchain@{go['version']}"}
    if go["sum"]:
        toolchain["digest"] = {"dirHash": go["sum"]}
    profile = build.get("pgo")
    dependencies = [upstream, toolchain, *_bundle(manifest)]
    if profile:
        dependencies.append({"name": PROFILE, "digest": {"sha256": profile}})
    predicate = ParseDict(
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "source": source["kind"],
                    "target": manifest["target"],
                    "via": build["via"],
                    **({"pgo": f"sha256:{profile}"} if profile else {}),
                    **({"bundle": True} if "bundle" in manifest else {}),
                },
                "internalParameters": {
                    "flags": build["flags"],
                    "environment": build["environment"],
                    # Text, because protobuf has only floating-point numbers here.
                    "host": {key: str(value) for key, value in manifest["host"].items()},
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": f"tag:{MAKER},2026:execution/{manifest['host']['execution']}"},
                "metadata": {
                    "invocationId": build["inputs"],
                    "startedOn": build["started"],
                    "finishedOn": build["finished"],
                },
            },
        },
        provenance_pb2.Provenance(),  # type: ignore[attr-defined]  # made at run time by protobuf
    )
    subjects = [
        ResourceDescriptor(name=file["name"], digest={"sha256": file["sha256"]}).pb
        for file in manifest["files"]
    ]
    result = Statement(subjects, PREDICATE_TYPE, MessageToDict(predicate))
    result.validate()
    text = MessageToJson(result.pb, indent=None, sort_keys=True)
    return json.dumps(json.loads(text), indent=2) + "\n"
