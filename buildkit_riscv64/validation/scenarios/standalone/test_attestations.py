"""Attestations of images, and source policies."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment.loopback import serving
from buildkit_riscv64.validation.environment.registry import Registry

from ..bases import BaseImage
from ..conftest import NewContext
from .results import Builder, contents, pull, text

IN_TOTO = "application/vnd.in-toto+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
SPDX = "https://spdx.dev/Document"


class Attested:
    """An image with its attestations, in a layout."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (top,) = json.loads((directory / "index.json").read_text())["manifests"]
        image, attestation = self._json(top)["manifests"]
        #: The image's descriptor.
        self.image = image
        #: The manifest of the attestations.
        self.manifest = self._json(attestation)
        assert image["platform"] == {"os": "linux", "architecture": str(Architecture.here())}
        assert attestation["platform"] == {"os": "unknown", "architecture": "unknown"}
        assert attestation["annotations"] == {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image["digest"],
        }

    def _json(self, descriptor: dict[str, Any]) -> Any:
        content = layout.blob(self._directory, descriptor["digest"]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
        return json.loads(content)

    def predicates(self, kind: str) -> list[Any]:
        """The predicates of a type, after checks of their statements."""
        found = []
        for one in self.manifest["layers"]:
            assert one["mediaType"] == IN_TOTO
            if one["annotations"]["in-toto.io/predicate-type"] != kind:
                continue
            statement = self._json(one)
            assert statement["_type"].startswith("https://in-toto.io/Statement/v")
            assert statement["predicateType"] == kind
            algorithm, _, value = self.image["digest"].partition(":")
            assert statement["subject"]
            for subject in statement["subject"]:
                assert subject["digest"] == {algorithm: value}
            found.append(statement["predicate"])
        return found


def _attested(builder: Builder, context: Path, *args: str) -> Attested:
    dest = builder.place("layout")
    output = f"--output=type=oci,name=example.org/attested,tar=false,dest={dest}"
    builder.build(context, *args, output).good()
    return Attested(dest)


def test_provenance(builder: Builder, new_context: NewContext, base: BaseImage) -> None:
    """Provenance in modes min and max: materials with digests; in max also arguments and LLB"""
    context = new_context("FROM base\nARG IT=default\nCOPY file /\nRUN echo $IT\n", file="it")
    args = ["--opt=build-arg:IT=an argument"]
    for mode in ("min", "max"):
        (predicate,) = _attested(
            builder, context, *args,
            f"--opt=attest:provenance=mode={mode},builder-id=https://example.org/builder",
        ).predicates(PROVENANCE)  # fmt: skip
        definition, details = predicate["buildDefinition"], predicate["runDetails"]
        assert "buildkit" in definition["buildType"]
        (material,) = definition["resolvedDependencies"]
        assert material["digest"] == {"sha256": base.digest.partition(":")[2]}
        assert material["uri"].startswith("pkg:")
        assert details["builder"]["id"] == "https://example.org/builder"
        assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
        request = definition["externalParameters"]["request"]
        reported = json.dumps(predicate)
        assert request["frontend"] == "dockerfile.v0"
        assert ("an argument" in reported) is (mode == "max")
        assert ("llbDefinition" in reported) is (mode == "max")


def test_provenance_outputs(
    builder: Builder, new_context: NewContext, local_registry: Registry
) -> None:
    """Provenance is pushed with the image and written beside a local output, but only on request"""
    context = new_context("FROM scratch\nCOPY file /\n", file="it")
    ask = "--opt=attest:provenance=mode=min"
    name = f"{local_registry.host}/attested"
    builder.build(context, ask, f"--output=type=image,name={name},push=true").good()
    directory = pull(name, builder.place("pulled"), "--all")
    (predicate,) = Attested(directory).predicates(PROVENANCE)
    assert predicate["buildDefinition"]["externalParameters"]["request"]
    output = builder.directory(context, ask)
    assert sorted(text(output)) == ["file", "provenance.json"]
    statement = json.loads((output / "provenance.json").read_text())
    assert statement["predicateType"] == PROVENANCE
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert digests == {"file": hashlib.sha256(b"it").hexdigest()}
    assert sorted(text(builder.directory(context))) == ["file"]


#: A scanner that implements docs/attestations/sbom-protocol.md: it lists files with checksums.
SCANNER = r"""FROM base
COPY --chmod=755 <<"SCAN" /scan
#!/bin/sh -eu
scan() {
    name=$(basename "$1")
    {
        printf '{"_type": "https://in-toto.io/Statement/v0.1",'
        printf '"predicateType": "https://spdx.dev/Document",'
        printf '"predicate": {"spdxVersion": "SPDX-2.3", "name": "%s", "files": [' "$name"
        separator=""
        for file in $(cd "$1" && find . -type f -path "*marked*" | sort); do
            sum=$(sha256sum "$1/$file" | cut -d" " -f1)
            printf '%s{"fileName": "%s", "checksums": [' "$separator" "$file"
            printf '{"algorithm": "SHA256", "checksumValue": "%s"}]}' "$sum"
            separator=,
        done
        printf ']}}'
    } >"$BUILDKIT_SCAN_DESTINATION/$name.spdx.json"
}
scan "$BUILDKIT_SCAN_SOURCE"
! touch "$BUILDKIT_SCAN_SOURCE/new" 2>/dev/null
for extra in "${BUILDKIT_SCAN_SOURCE_EXTRAS:-/nowhere}"/*; do
    if [ -d "$extra" ]; then scan "$extra"; fi
done
SCAN
ENTRYPOINT ["/scan"]
"""


def test_sbom(builder: Builder, new_context: NewContext, local_registry: Registry) -> None:
    """SBOMs of the image and its stages, from a scanner image with upstream's protocol"""
    scanner = f"{local_registry.host}/scanner"
    builder.build(new_context(SCANNER), f"--output=type=image,name={scanner},push=true").good()
    content = secrets.token_hex()
    context = new_context(
        "FROM base AS early\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN echo early >/marked-early\n"
        "FROM scratch\nCOPY marked /\nCOPY --from=early /marked-early /copied\n",
        marked=content,
    )
    ask = f"--opt=attest:sbom=generator={scanner}"
    attested = _attested(builder, context, ask)
    found = {one["name"]: one for one in attested.predicates(SPDX)}
    files = {
        name: {it["fileName"]: it["checksums"][0]["checksumValue"] for it in one["files"]}
        for name, one in found.items()
    }
    assert files == {
        "sbom": {"./marked": hashlib.sha256(content.encode()).hexdigest()},
        "sbom-early": {"./marked-early": hashlib.sha256(b"early\n").hexdigest()},
    }
    assert attested.predicates(PROVENANCE) == []
    output = builder.directory(context, ask)
    assert sorted(it.name for it in output.iterdir()) == [
        "copied", "marked", "sbom-early.spdx.json", "sbom.spdx.json",
    ]  # fmt: skip
    # A scanner that fails makes the build fail.
    broken = new_context("FROM base\nENTRYPOINT false\n")
    builder.build(broken, f"--output=type=image,name={scanner},push=true").good()
    builder.build(context, f"{ask}:latest", "--no-cache").bad("generating sbom", "exit code: 1")


def _policy(place: Path, *rules: dict[str, Any]) -> str:
    place.write_text(json.dumps({"version": 1, "rules": rules}))
    return f"--source-policy-file={place}"


def test_policy_denies(builder: Builder, new_context: NewContext, tmp_path: Path) -> None:
    """A source policy denies sources by name and by pattern"""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_text("fetched")
    with serving(tmp_path / "served") as address:
        context = new_context("FROM scratch\nARG ADDRESS\nADD $ADDRESS/file /\n")
        args = [f"--opt=build-arg:ADDRESS={address}"]
        place = tmp_path / "policy.json"
        for identifier in (f"{address}/file", f"{address}/*"):
            deny = {"action": "DENY", "selector": {"identifier": identifier}}
            builder.build(context, *args, _policy(place, deny)).bad(
                f'source "{address}/file" denied by policy'
            )
        # The last matching rule applies.
        allow = {"action": "ALLOW", "selector": {"identifier": f"{address}/file"}}
        other = {"action": "DENY", "selector": {"identifier": f"{address}/other"}}
        policy = _policy(place, deny, allow, other)
        assert text(builder.directory(context, *args, policy)) == {"file": "fetched"}
        # The policy also applies to cached sources.
        builder.build(context, *args, _policy(place, deny)).bad("denied by policy")
    nowhere = new_context("FROM denied.example.org/image\n")
    deny = {"action": "DENY", "selector": {"identifier": "docker-image://denied.example.org/*"}}
    builder.build(nowhere, _policy(place, deny)).bad("denied by policy")


def test_policy_converts(
    builder: Builder, new_context: NewContext, local_registry: Registry, tmp_path: Path
) -> None:
    """A source policy replaces an image, and pins the checksum of a download"""
    image = f"{local_registry.host}/replacement"
    output = f"--output=type=image,name={image},push=true"
    metadata = tmp_path / "metadata.json"
    builder.build(
        new_context("FROM scratch\nCOPY file /\n", file="replaced"), output,
        f"--metadata-file={metadata}",
    ).good()  # fmt: skip
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    convert = {
        "action": "CONVERT",
        "selector": {"identifier": "docker-image://absent.example.org/image:latest"},
        "updates": {"identifier": f"docker-image://{image}:latest@{digest}"},
    }
    context = new_context("FROM absent.example.org/image\nCOPY mine /\n", mine="mine")
    place = tmp_path / "policy.json"
    got = builder.image(context, _policy(place, convert))
    assert [contents(path) for path in got.layers] == [{"file": b"replaced"}, {"mine": b"mine"}]
    (tmp_path / "served").mkdir()
    served = tmp_path / "served" / "file"
    served.write_text("fetched")
    with serving(served.parent) as address:
        fetch = new_context(f"FROM scratch\nADD {address}/file /\n")
        for content, good in ((b"fetched", True), (b"another", False)):
            pin = {
                "action": "CONVERT",
                "selector": {"identifier": f"{address}/file"},
                "updates": {
                    "attrs": {"http.checksum": f"sha256:{hashlib.sha256(content).hexdigest()}"}
                },
            }
            ended = builder.build(fetch, _policy(place, pin))
            if good:
                ended.good()
            else:
                ended.bad("digest mismatch")
