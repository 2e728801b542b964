from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, dry_run, filesystem, project, schemas
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import (
    BusyError,
    CheckError,
    Failure,
    MismatchError,
    MissingRequirementError,
    NetworkError,
    UsageError,
)
from buildkit_riscv64.image import layout, push, registry
from buildkit_riscv64.image.push import ImageSet, PushOptions, State
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.system import apt

from ..factories import COMMIT, Commands, edit_manifest
from ..image_factories import make_image

OTHER = f"sha256:{'9' * 64}"
RELEASE = ["v0.32.2", "v0.32", "latest"]
ROOTLESS = [f"{tag}-rootless" for tag in RELEASE]


def publication(
    version: str = "v0.32.2",
    variant: str = "root",
    *,
    pinned: bool = True,
    created: str = "2026-08-04T12:27:40Z",
) -> ImageSet:
    manifest = {"version": version, "pinned": pinned, "created": created}
    return ImageSet(Variant(variant), manifest, [])


@pytest.mark.parametrize(("variant", "tags"), [("root", RELEASE), ("rootless", ROOTLESS)])
def test_release_tags(variant: str, tags: list[str]) -> None:
    assert publication(variant=variant).tags == tags


@pytest.mark.parametrize(
    "version",
    [
        "v0.33.0-rc1", "v0.32.0-123-gabcdef0", "v0.32.2.m", "v0.32.2-rootless", "v0.32", "0.32.2",
        "991535e0973488b6a429096d21fa13f81f2d89d8", "v0.32.2+dirty",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pinned", [True, False])
def test_development_build_has_the_tag_of_its_day(version: str, pinned: bool) -> None:
    assert publication(version, pinned=pinned).tags == ["main-20260804"]
    assert publication(version, "rootless", pinned=pinned).tags == ["main-20260804-rootless"]


def test_unpinned_release_version_is_a_development_build() -> None:
    """A checkout of a release may have changes."""
    assert publication(pinned=False).tags == ["main-20260804"]


@pytest.mark.parametrize("created", ["2026-08-05T01:00:00+02:00", "2026-08-04T20:00:00-03:59"])
def test_day_is_in_utc(created: str) -> None:
    assert publication(pinned=False, created=created).tags == ["main-20260804"]


@pytest.mark.parametrize(
    ("tag", "existing", "newer"),
    [
        ("latest", [], ""),
        ("latest", ["latest", "v0.32.1", "v0.32.2", "v0.32", "v0.4.10"], ""),
        ("latest", ["v0.32.3"], "v0.32.3"),
        ("latest", ["v0.33.0"], "v0.33.0"),
        ("latest", ["v0.32.10", "v0.32.9"], "v0.32.10"),
        ("latest", ["v1.0.0", "v0.100.0"], "v1.0.0"),
        ("latest", ["v0.33.0-rc1", "v0.33", "main-20270101", "v0.33.0-rootless", "buildx-stable-1"], ""),
        ("latest", ["v0.33.٣", "v٣.33.0", f"v{'9' * 5000}.0.0"], ""),
        ("v0.32", ["v0.32.3"], "v0.32.3"),
        ("v0.32", ["v0.33.0", "v0.321.0", "v1.32.9", "v0.3.20"], ""),
        ("v0.32.2", ["v0.32.3", "v0.33.0"], ""),
    ],
)  # fmt: skip
def test_rolling_tags_only_move_forward(tag: str, existing: list[str], newer: str) -> None:
    assert publication().newer(tag, existing) == newer
    # Each variant moves separately.
    suffixed = [f"{one}-rootless" for one in existing]
    rootless = publication(variant="rootless")
    assert rootless.newer(f"{tag}-rootless", suffixed) == (f"{newer}-rootless" if newer else "")
    plain = [one for one in existing if "rootless" not in one]
    assert rootless.newer(f"{tag}-rootless", plain) == ""


def test_day_tag_always_moves() -> None:
    assert publication(pinned=False).newer("main-20260804", ["v9.9.9", "main-20270101"]) == ""


@pytest.fixture
def place(checkout: Path) -> Path:
    """A `dist/` with a release's root image for riscv64."""
    make_image(project.DIST)
    return project.DIST


def published(place: Path) -> dict[str, str]:
    return {name: one["digest"] for name, one in layout.names(place / "oci").items()}


def run(
    repository: str = "", target: str = "", *, dry: bool = False, **options: bool
) -> push.PushResult:
    with dry_run.running(dry=dry):
        return push.push(PushOptions.parse(repository=repository, target=target, **options))


def states(outcome: push.PushResult) -> dict[str, State]:
    return {tag.name: tag.state for tag in outcome.tags}


def test_test_images_are_valid(place: Path) -> None:
    manifest = dist.load(place / "linux-riscv64/image/root").manifest
    assert schemas.validation_error(manifest, schemas.IMAGE) == ""


def decide(
    tag: str, current: str, place: Path, existing: Collection[str] = (), *, force: bool = False
) -> push.Tag:
    artifacts = dist.load(place / "linux-riscv64/image/root")
    images = [layout.load(artifacts.path / dist.LAYOUT)]
    one = ImageSet(Variant.ROOT, artifacts.manifest, images)
    return one.decide(tag, "ghcr.io/x", current, existing, force=force)


def test_new_tag(place: Path) -> None:
    image = layout.load(place / "linux-riscv64/image/root/layout")
    assert decide("v0.32.2", "", place) == push.Tag(
        name="v0.32.2", digest=image.digest, size=image.size, platforms=("linux/riscv64",),
        state=State.PUSHED,
    )  # fmt: skip


@pytest.mark.parametrize("tag", RELEASE)
def test_existing_tag(place: Path, tag: str) -> None:
    digest = decide(tag, "", place).digest
    assert decide(tag, digest, place, ["v9.0.0"]).state is State.THERE


@pytest.mark.parametrize("force", [True, False])
def test_rolling_tag_is_moved(place: Path, force: bool) -> None:
    tag = decide("latest", OTHER, place, ["latest", "v0.32.1"], force=force)
    assert (tag.state, tag.reason) == (State.PUSHED, "was sha256:999999999999")


@pytest.mark.parametrize("force", [True, False])
def test_rolling_tag_is_held_back(place: Path, force: bool) -> None:
    tag = decide("latest", OTHER, place, ["latest", "v0.33.0"], force=force)
    assert (tag.state, tag.reason) == (State.HELD, "v0.33.0 is there")


def test_release_tag_does_not_move(place: Path) -> None:
    digest = decide("v0.32.2", "", place).digest
    with pytest.raises(MismatchError) as error:
        decide("v0.32.2", OTHER, place)
    assert {"ghcr.io/x:v0.32.2", OTHER, digest} <= set(error.value.brief.replace(",", "").split())
    assert "--force" in error.value.hint
    assert decide("v0.32.2", OTHER, place, force=True).state is State.PUSHED


def test_day_tag_is_replaced(checkout: Path) -> None:
    make_image(project.DIST, pinned=False)
    assert decide("main-20260804", OTHER, project.DIST, ["main-20260804"]).state is State.PUSHED


def test_default_target_is_a_layout(place: Path) -> None:
    make_image(place, variant="rootless")
    outcome = run()
    assert (outcome.place, outcome.registry, outcome.dry) == (f"oci:{place / 'oci'}", False, False)
    assert list(published(place)) == [tag for pair in zip(RELEASE, ROOTLESS, strict=True) for tag in pair]  # fmt: skip
    assert len(set(published(place).values())) == 2
    for variant in Variant:
        digest = dist.load(place / "linux-riscv64/image" / variant).manifest["digest"]
        assert published(place)[f"v0.32.2{variant.suffix}"] == digest


def test_no_leftovers(place: Path) -> None:
    before = {path for path in place.rglob("*") if path.is_file()}
    run()
    after = {path for path in place.rglob("*") if path.is_file()}
    new = {path.relative_to(place).parts[0] for path in after - before}
    assert new == {"oci", ".oci.lock", ".linux-riscv64.lock"}


def test_second_push_changes_nothing(place: Path) -> None:
    first = run()
    assert set(states(first).values()) == {State.PUSHED}
    assert set(states(run()).values()) == {State.THERE}


def test_several_platforms_become_an_index(place: Path) -> None:
    for target in ("linux-amd64", "linux-arm64"):
        make_image(place, target)
    outcome = run()
    assert outcome.tags[0].platforms == ("linux/amd64", "linux/arm64", "linux/riscv64")
    images = [
        layout.load(place / f"linux-{arch}/image/root/layout") for arch in ("amd64", "arm64", "riscv64")
    ]  # fmt: skip
    assert set(published(place).values()) == {layout.combined(images)[0]["digest"]}
    assert outcome.tags[0].size == sum(image.size for image in images)


def test_one_target_of_several(place: Path) -> None:
    make_image(place, "linux-amd64")
    assert run(target="linux-amd64").tags[0].platforms == ("linux/amd64",)


def test_layout_keeps_its_releases(place: Path) -> None:
    run()
    old = published(place)
    make_image(place, version="v0.32.3")
    assert set(states(run()).values()) == {State.PUSHED}
    new = published(place)
    assert new["v0.32.2"] == old["v0.32.2"]
    assert new["latest"] == new["v0.32"] == new["v0.32.3"] != old["latest"]


def test_older_release_moves_no_tags(place: Path) -> None:
    make_image(place, version="v0.33.0")
    run()
    before = published(place)
    make_image(place, version="v0.32.2")
    assert states(run()) == {"v0.32.2": State.PUSHED, "v0.32": State.PUSHED, "latest": State.HELD}
    assert published(place)["latest"] == before["latest"]
    make_image(place, version="v0.32.1")
    assert states(run()) == {"v0.32.1": State.PUSHED, "v0.32": State.HELD, "latest": State.HELD}


def test_development_build_moves_no_release_tags(place: Path) -> None:
    run()
    before = published(place)
    make_image(place, version="v0.34.0-12-gabcdef0", pinned=False)
    assert states(run()) == {"main-20260804": State.PUSHED}
    assert before.items() < published(place).items()


def test_different_image_of_a_release_is_refused(place: Path) -> None:
    run()
    before = published(place)
    make_image(place, payload=b"changed")
    with pytest.raises(MismatchError, match=before["v0.32.2"]):
        run()
    assert published(place) == before
    run(force=True)
    assert not before.items() & published(place).items()


def test_one_refused_tag_stops_the_push(place: Path) -> None:
    """If one variant is refused, the other is not published either."""
    make_image(place, variant="rootless")
    run(target="linux-riscv64")
    before = published(place)
    make_image(place, variant="rootless", payload=b"changed")
    shutil.rmtree(place / "linux-riscv64/image/root")
    make_image(place, "linux-amd64", "rootless")
    with pytest.raises(MismatchError):
        run()
    assert published(place) == before


def test_damaged_layout_is_repaired(place: Path) -> None:
    run()
    for path in (place / "oci/blobs/sha256").iterdir():
        path.unlink()
        path.write_text("damaged")
    run()
    for path in (place / "oci/blobs/sha256").iterdir():
        assert filesystem.sha256(path) == path.name


def test_foreign_layout_is_refused(place: Path) -> None:
    (place / "oci").mkdir()
    (place / "oci/index.json").write_text("{}")
    with pytest.raises(CheckError, match="not a layout of named images"):
        run()
    assert (place / "oci/index.json").read_text() == "{}"


def test_nothing_to_publish(checkout: Path) -> None:
    with pytest.raises(CheckError, match="no image in") as error:
        run()
    assert "build-image" in error.value.hint


def test_image_of_a_profile_is_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_image(place, "linux-riscv64-rva22u64", payload=b"other")
    assert run().tags[0].platforms == ("linux/riscv64",)
    assert "left out: linux-riscv64-rva22u64 root" in capsys.readouterr().err
    shutil.rmtree(place / "linux-riscv64")
    with pytest.raises(CheckError, match="no image"):
        run()


def test_target_with_a_profile_is_refused(checkout: Path) -> None:
    with pytest.raises(UsageError, match="linux-riscv64-") as error:
        PushOptions.parse(repository="", target="linux-riscv64-rva22u64")
    assert "linux-riscv64" in error.value.hint


@pytest.mark.parametrize(("repository", "target"), [("https://x.example/y", ""), ("", "riscv64")])
def test_bad_input_is_refused_first(checkout: Path, repository: str, target: str) -> None:
    with pytest.raises(UsageError):
        PushOptions.parse(repository=repository, target=target)


@pytest.mark.parametrize(
    "other",
    [
        {"version": "v0.32.1"}, {"revision": COMMIT[::-1]}, {"pinned": False},
        {"version": "v0.32.1", "variant": "rootless"},
    ],
)  # fmt: skip
def test_images_of_several_builds(place: Path, other: dict[str, Any]) -> None:
    make_image(place, "linux-amd64", **other)
    with pytest.raises(CheckError, match=r"linux-amd64 .*; linux-riscv64 root .*v0.32.2") as error:  # fmt: skip
        run()
    assert "--target" in error.value.hint
    assert not (place / "oci").exists()


def change_layer(directory: Path) -> None:
    image = layout.load(directory / dist.LAYOUT)
    image.layers[0].write_bytes(b"changed")


def change_layer_secretly(directory: Path) -> None:
    """Keep size and time."""
    (layer,) = layout.load(directory / dist.LAYOUT).layers
    stat = layer.stat()
    layer.write_bytes(layer.read_bytes()[::-1])
    os.utime(layer, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def another_layout(directory: Path) -> None:
    """A consistent image with matching checksums."""
    root = directory / "root"
    root.mkdir()
    shutil.rmtree(directory / dist.LAYOUT)
    layout.from_directory(root, directory / dist.LAYOUT, Target.parse("linux-riscv64").arch)
    names = [str(path.relative_to(directory)) for path in (directory / dist.LAYOUT).rglob("*") if path.is_file()]  # fmt: skip
    edit_manifest(directory, lambda manifest: manifest.update(files=dist.record(directory, names)))


def another_start(directory: Path) -> None:
    """A consistent image of other programs, whose manifest has its digest."""
    another_layout(directory)
    digest = layout.load(directory / dist.LAYOUT).digest
    edit_manifest(directory, lambda manifest: manifest.update(digest=digest))


@pytest.mark.parametrize(
    ("damage", "output"),
    [
        (lambda f: edit_manifest(f, lambda m: m.pop("digest")), "digest"),
        (lambda f: edit_manifest(f, lambda m: m.update(variant="rootless")), "linux-riscv64 rootless"),
        (lambda f: edit_manifest(f, lambda m: m.update(target="linux-amd64")), "linux-amd64 root"),
        (lambda f: (f / dist.SUMS).unlink(), "files do not match"),
        (lambda f: (f / dist.PACKAGES_SBOM).write_text("{}"), "its files"),
        (change_layer, "its files"),
        (change_layer_secretly, "is damaged"),
        (another_layout, "its digest is sha256:"),
        (another_start, "differs from this checkout"),
        (lambda f: edit_manifest(f, lambda m: m["binaries"].update(buildctl="0" * 64)), "buildctl does not match"),
        (lambda f: f.parents[1].joinpath("bin/buildkitd").write_text("new"), "buildkitd differs from"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [True, False])
def test_damaged_image_is_not_published(
    place: Path, damage: Callable[[Path], object], output: str, dry: bool
) -> None:
    damage(place / "linux-riscv64/image/root")
    with pytest.raises(CheckError, match="linux-riscv64/image/root") as error:
        run(dry=dry)
    assert output in error.value.brief
    assert "build-image --force" in error.value.hint
    assert not (place / "oci").exists()


def test_image_with_another_platform_is_refused(place: Path) -> None:
    directory = place / "linux-amd64/image/root"
    shutil.copytree(place / "linux-riscv64/image/root", directory)
    edit_manifest(directory, lambda manifest: manifest.update(target="linux-amd64"))
    with pytest.raises(CheckError, match=r"linux/riscv64, expected linux/amd64"):
        run(target="linux-amd64")


def test_image_without_binaries_is_accepted(place: Path) -> None:
    """After fetching only published images."""
    shutil.rmtree(place / "linux-riscv64/bin")
    assert states(run())["latest"] is State.PUSHED


def test_locked_target_is_refused(place: Path) -> None:
    with dist.lock(Target.parse("linux-riscv64")), pytest.raises(BusyError, match="linux-riscv64"):
        run()
    assert not (place / "oci").exists()


def files(directory: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.rglob("*") if p.is_file()}  # fmt: skip


def test_dry_changes_nothing(place: Path) -> None:
    before = files(place)
    outcome = run(dry=True)
    assert states(outcome) == dict.fromkeys(RELEASE, State.PUSHED)
    assert outcome.dry
    assert files(place) == before


def test_dry_compares_existing_tags(place: Path) -> None:
    run()
    make_image(place, version="v0.32.1")
    assert states(run(dry=True)) == {"v0.32.1": State.PUSHED, "v0.32": State.HELD, "latest": State.HELD}  # fmt: skip


class Remote:
    """A fake registry."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}
        self.order: list[str] = []
        self.problem: Failure | None = None
        self.swallows = ""

    def __call__(self, reference: registry.Reference, _credentials: str) -> Remote:
        self.name = reference.name
        return self

    def tags(self) -> list[str]:
        if self.problem:
            raise self.problem
        return list(self.content)

    def digest(self, tag: str) -> str:
        return self.content.get(tag, "")

    def put(self, source: Path) -> None:
        for tag, entry in layout.names(source).items():
            self.order.append(tag)
            if tag != self.swallows:
                self.content[tag] = entry["digest"]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Remote:
    remote = Remote()
    monkeypatch.setattr(registry, "Registry", remote)
    monkeypatch.setattr(apt, "ensure_installed", lambda _tools, **_options: None)
    return remote


def test_push_to_a_registry(place: Path, remote: Remote) -> None:
    outcome = run("ghcr.io/me/x")
    assert (outcome.place, outcome.registry) == ("ghcr.io/me/x", True)
    assert remote.content == {tag.name: tag.digest for tag in outcome.tags}
    assert not (place / "oci").exists()
    assert not list(place.glob(".*staging*"))


def test_latest_is_pushed_last(place: Path, remote: Remote) -> None:
    make_image(place, variant="rootless")
    run("ghcr.io/me/x")
    assert remote.order == [tag for pair in zip(RELEASE, ROOTLESS, strict=True) for tag in pair]


def test_held_tags_are_not_pushed(place: Path, remote: Remote) -> None:
    remote.content = {"v0.33.0": OTHER, "latest": OTHER}
    outcome = run("ghcr.io/me/x")
    assert remote.order == ["v0.32.2", "v0.32"]
    assert remote.content["latest"] == OTHER
    assert outcome.tags[-1].reason == "v0.33.0 is there"


def test_release_tag_in_a_registry_does_not_move(place: Path, remote: Remote) -> None:
    remote.content = {"v0.32.2": OTHER}
    with pytest.raises(MismatchError, match=f"ghcr.io/me/x:v0.32.2 .*{OTHER}"):
        run("ghcr.io/me/x")
    assert not remote.order
    run("ghcr.io/me/x", force=True)
    assert remote.content["v0.32.2"] != OTHER


def test_pushed_tags_are_verified(place: Path, remote: Remote) -> None:
    remote.swallows = "v0.32"
    with pytest.raises(MismatchError, match=r"ghcr\.io/me/x:v0\.32 is nothing .*sha256:"):
        run("ghcr.io/me/x")


def test_registry_does_not_answer(place: Path, remote: Remote) -> None:
    remote.problem = NetworkError("no such host", "check it")
    with pytest.raises(NetworkError):
        run("ghcr.io/me/x")


@pytest.mark.parametrize("problem", [NetworkError("away"), MissingRequirementError("no skopeo")])
def test_dry_without_an_answer(
    place: Path, remote: Remote, problem: Failure, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.problem = problem
    before = files(place)
    assert states(run("ghcr.io/me/x", dry=True)) == dict.fromkeys(RELEASE, State.PUSHED)
    assert problem.brief in capsys.readouterr().err
    assert not remote.order
    assert files(place) == before


def test_skopeo_is_only_for_registries(
    place: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        apt, "ensure_installed", lambda tools, **_options: asked.append(list(tools))
    )
    run()
    assert not asked
    assert not commands.args
    commands.answer("list-tags", stdout='{"Tags": []}')
    with pytest.raises(MismatchError):
        run("ghcr.io/me/x")
    assert asked == [["skopeo"]]


def test_result_as_json(place: Path) -> None:
    outcome = run(dry=True).as_json()
    digest = dist.load(place / "linux-riscv64/image/root").manifest["digest"]
    assert json.loads(json.dumps(outcome))["tags"][0] == {
        "name": "v0.32.2", "digest": digest, "size": outcome["tags"][0]["size"],
        "platforms": ["linux/riscv64"], "state": "pushed", "reason": "",
    }  # fmt: skip
