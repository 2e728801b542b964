from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import dist, dry_run, host, project, schemas
from buildkit_riscv64.core.arch import Architecture, Target
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import (
    BuildError,
    BusyError,
    CheckError,
    Failure,
    MissingRequirementError,
    NetworkError,
    NotNativeError,
    StorageError,
    UsageError,
)
from buildkit_riscv64.image import (
    base_image,
    build,
    build_request,
    buildx_builder,
    check,
    container,
    engines,
    layout,
    packages,
)
from buildkit_riscv64.image.base_image import BaseImage, Origin
from buildkit_riscv64.image.build import ImageOptions
from buildkit_riscv64.image.build_request import Request
from buildkit_riscv64.image.engines import Name
from buildkit_riscv64.image.packages import Package
from buildkit_riscv64.image.variants import Variant

from ..factories import COMMIT, GO, Commands, edit_manifest
from ..published import command_answers, leftovers, tree
from .fake_image import EPOCH, TARGET, FakeContainer, FakeImage, entry, give_to_the_group

# Options.


def parse(**changes: Any) -> ImageOptions:
    asked: dict[str, Any] = {"rootless": False, "engine": "buildkit", "base": "auto", "target": ""}
    return ImageOptions.parse(**asked | changes)


def test_options(on: Callable[[str], None]) -> None:
    on("riscv64")
    assert parse() == ImageOptions(
        variant=Variant.ROOT, engine=Name.BUILDKIT, base=Origin.AUTO, target=TARGET
    )
    assert parse(
        rootless=True, engine="docker", base="rootfs", target="linux-riscv64-rva22u64", load=True,
        force=True, yes=True,
    ) == ImageOptions(
        variant=Variant.ROOTLESS, engine=Name.DOCKER, base=Origin.ROOTFS, load=True, force=True,
        target=Target.parse("linux-riscv64-rva22u64"), yes=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "brief", "hint"),
    [
        ({"engine": "podman"}, "--engine podman", "buildkit, docker"),
        ({"engine": ""}, "--engine ", "buildkit, docker"),
        ({"engine": "BuildKit"}, "--engine BuildKit", "buildkit, docker"),
        ({"base": "alpine"}, "--base alpine", "auto, registry, rootfs"),
        ({"target": "riscv64"}, "'riscv64'", "linux-riscv64"),
        ({"target": "../../etc"}, "'../../etc'", "linux-riscv64"),
    ],
)
def test_invalid_options(
    on: Callable[[str], None], wrong: dict[str, str], brief: str, hint: str
) -> None:
    on("riscv64")
    with pytest.raises(UsageError) as caught:
        parse(**wrong)
    assert brief in caught.value.brief
    assert hint in caught.value.hint


def test_foreign_target_is_refused(on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError) as caught:
        parse(target="linux-riscv64")
    assert "linux-riscv64" in caught.value.brief
    assert "amd64" in caught.value.brief
    assert caught.value.hint == "invoke on riscv64 -- build-image"


# Complete builds, with fake packages and a fake engine.


def package(name: str, **changes: Any) -> Package:
    values: dict[str, Any] = {
        "version": "1:1", "architecture": "riscv64", "sha256": "2" * 64, "size": 1
    }  # fmt: skip
    return Package(name=name, **values | changes)


class Machine:
    """A fake Archive and engine, and a log of their steps; tests break one step each."""

    def __init__(self, base: BaseImage) -> None:
        self.base = base
        self.lists = {
            "root": ["git", "tini"], "rootless": ["uidmap"], "tools": ["tar"], "helpers": ["setcap"]
        }  # fmt: skip
        self.updates = True
        self.free = build.NEEDED_BYTES
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.fetched: list[str] = []
        self.placed: dict[str, list[str]] = {}
        self.requests: list[Request] = []
        self.origins: list[Origin] = []
        self.fake: FakeImage
        self.loaded: list[tuple[Path, str]] = []

    def do(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            raise self.fails[what]

    # Debian.

    @contextmanager
    def locked(self) -> Iterator[None]:
        self.do("lock")
        yield
        self.done.append("unlock")

    def update(self) -> bool:
        self.do("update")
        return self.updates

    def resolve(self, *lists: str) -> list[Package]:
        return [package(name) for one in lists for name in self.lists[one]]

    def fetch(self, wanted: list[Package]) -> None:
        self.fetched = [one.name for one in wanted]
        self.do("fetch")

    def place(self, wanted: list[Package], directory: Path) -> None:
        directory.mkdir(parents=True)
        self.placed[directory.name] = [one.name for one in wanted]

    def ensure(
        self, origin: Origin, archive: object, unpacking: list[Package], *, yes: bool
    ) -> BaseImage:
        assert archive is self
        assert [one.name for one in unpacking] == self.lists["tools"]
        self.origins.append(origin)
        self.do("base")
        return self.base

    # An engine.

    @contextmanager
    def running(self, name: Name, request: Request, *, yes: bool) -> Iterator[Machine]:
        self.do(f"start {name}")
        try:
            yield self
        finally:
            self.done.append("stop")

    def build(self, request: Request, directory: Path) -> None:
        self.requests.append(request)
        assert sorted(path.name for path in request.packages.iterdir()) == sorted(self.placed)
        self.fake.write(directory)
        (directory / "ingest").mkdir()
        self.do("build")


@pytest.fixture
def machine(
    finished: Path,
    base: BaseImage,
    fake_container: FakeContainer,
    provided: list[object],
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    machine = Machine(base)
    machine.fake = FakeImage(dist.load(finished))
    command_answers(commands, finished)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(host, "free_bytes", lambda _path: machine.free)
    archive = {Architecture.RISCV64: machine}
    monkeypatch.setattr(build, "Archive", archive.__getitem__)
    monkeypatch.setattr(base_image, "ensure", machine.ensure)
    monkeypatch.setattr(engines, "running", machine.running)

    def connect(*, builds: bool) -> Machine:
        machine.do("connect to build" if builds else "connect")
        return machine

    def load(client: object, archive: Path, name: str) -> None:
        assert client is machine
        assert archive.is_file()
        machine.loaded.append((archive, name))
        machine.do("load")

    monkeypatch.setattr(buildx_builder, "connect", connect)
    monkeypatch.setattr(buildx_builder, "load", load)
    return machine


ROOT = dist.IMAGE + "/root"
BUILT = ["lock", "update", "fetch", "base", "start buildkit", "build", "stop", "unlock"]


def test_image_is_built_checked_and_published(
    machine: Machine, provided: list[object], fake_container: FakeContainer
) -> None:
    outcome = build.build(parse(yes=True))
    assert machine.done == BUILT
    assert provided == [(list(container.TOOLS), True)]
    assert fake_container.daemon_starts == 1
    assert (outcome.up_to_date, outcome.loaded) == (False, "")
    artifacts = outcome.artifacts
    assert artifacts is not None
    assert artifacts.path == project.DIST / "linux-riscv64" / ROOT
    assert artifacts.unchanged()
    assert leftovers() == []
    assert sorted(path.name for path in artifacts.path.iterdir()) == [
        "SHA256SUMS", "buildkit-v0.32.2.linux-riscv64.image.tar", "layout", "manifest.json",
        "sbom.cdx.json",
    ]  # fmt: skip
    assert not (artifacts.path / "layout/ingest").exists()
    assert {f.status for f in check.examine(artifacts.path, Variant.ROOT, TARGET)} == {Status.OK}


def test_manifest(machine: Machine) -> None:
    artifacts = build.build(parse(base="rootfs")).artifacts
    assert artifacts is not None
    manifest = dict(artifacts.manifest)
    assert schemas.validation_error(manifest, schemas.IMAGE) == ""
    image = layout.load(artifacts.path / dist.LAYOUT)
    binaries = dist.load(dist.directory(TARGET))
    assert manifest.pop("build").pop("inputs").startswith("sha256:")
    assert manifest.pop("host")["arch"] == "riscv64"
    assert {record["name"] for record in manifest.pop("files")} == {
        "buildkit-v0.32.2.linux-riscv64.image.tar", "sbom.cdx.json",
        *(str(p.relative_to(artifacts.path)) for p in image.layout.rglob("*") if p.is_file()),
    }  # fmt: skip
    unpacked = [layer.pop("unpacked") for layer in manifest["layers"]]
    assert manifest == {
        "manifest_version": 1, "target": "linux-riscv64", "variant": "root", "version": "v0.32.2",
        "revision": COMMIT, "pinned": True, "created": "2026-08-04T12:27:40Z", "epoch": EPOCH,
        "digest": image.digest, "size": image.size, "unpacked": sum(unpacked),
        "layers": [{"digest": one["digest"], "size": one["size"]} for one in image.manifest["layers"]],
        "binaries": {c: binaries.files[f"bin/{c}"]["sha256"] for c in dist.COMMANDS},
        "packages": [package("git").as_json(), package("tini").as_json()], "security_updates": True,
    }  # fmt: skip


def test_build_record(machine: Machine) -> None:
    artifacts = build.build(parse(engine="docker", base="registry")).artifacts
    assert artifacts is not None
    record = artifacts.manifest["build"]
    assert record["engine"] == "docker"
    # The base that was used, not the requested one.
    assert record["base"] == {"origin": "rootfs", "digest": machine.base.digest}
    assert machine.origins == [Origin.REGISTRY]
    assert record["started"] <= record["finished"]


def test_request(machine: Machine) -> None:
    build.build(parse())
    (request,) = machine.requests
    words = {"title": "BuildKit", "version": "v0.32.2", "created": "2026-08-04T12:27:40Z",
             "revision": COMMIT, "source": "https://github.com/moby/buildkit"}  # fmt: skip
    assert request == Request(
        variant=Variant.ROOT, base=machine.base, binaries=dist.directory(TARGET) / "bin",
        packages=project.DIST / ".linux-riscv64.image-root.staging" / "scratch", epoch=EPOCH,
        arguments={name.upper(): word for name, word in words.items()},
        annotations={
            f"org.opencontainers.image.{name}": word
            for name, word in (words | {"licenses": "Apache-2.0"}).items()
        },
    )  # fmt: skip


@pytest.mark.parametrize("rootless", [False, True])
def test_packages_of_both_variants_are_placed(machine: Machine, rootless: bool) -> None:
    """Both variants share most steps, so the cache serves the second one."""
    machine.fake = FakeImage(machine.fake.binaries, Variant(["root", "rootless"][rootless]))
    artifacts = build.build(parse(rootless=rootless)).artifacts
    assert artifacts is not None
    assert machine.fetched == ["git", "tini", "uidmap", "tar", "setcap"]
    assert machine.placed == {"root": ["git", "tini"], "rootless": ["uidmap"], "helpers": ["setcap"]}  # fmt: skip
    assert [one["name"] for one in artifacts.manifest["packages"]] == [
        "git", "tini", *(["uidmap"] if rootless else [])
    ]  # fmt: skip


def test_rootless_image(machine: Machine, steps: list[str]) -> None:
    machine.fake = FakeImage(machine.fake.binaries, Variant.ROOTLESS)
    artifacts = build.build(parse(rootless=True)).artifacts
    assert artifacts is not None
    assert artifacts.path == project.DIST / "linux-riscv64/image/rootless"
    assert "buildkit-rootless-v0.32.2.linux-riscv64.image.tar" in artifacts.files
    (request,) = machine.requests
    assert (request.variant, request.arguments["TITLE"]) == ("rootless", "BuildKit, rootless")
    assert steps == ["build-image --rootless"]


def test_missing_security_updates_are_recorded(machine: Machine) -> None:
    machine.updates = False
    artifacts = build.build(parse()).artifacts
    assert artifacts is not None
    assert artifacts.manifest["security_updates"] is False


# Cache key.


def test_up_to_date(machine: Machine, steps: list[str]) -> None:
    first = build.build(parse())
    before = tree()
    machine.done.clear()
    again = build.build(parse(engine="buildkit", base="rootfs"))
    assert again.up_to_date
    assert first.artifacts is not None
    assert again.artifacts == first.artifacts
    assert machine.done == ["lock", "update", "unlock"]
    assert tree() == before
    assert steps == ["build-image"]


def test_force_runs_every_step_again(machine: Machine) -> None:
    build.build(parse())
    assert build.build(parse(force=True)).up_to_date is False
    assert [request.cached for request in machine.requests] == [True, False]


@pytest.mark.parametrize("name", ["layout/index.json", "sbom.cdx.json", "SHA256SUMS"])
def test_damaged_image_is_rebuilt(machine: Machine, name: str) -> None:
    build.build(parse())
    before = tree()
    with (project.DIST / "linux-riscv64" / ROOT / name).open("a") as file:
        file.write("x")
    assert build.build(parse()).up_to_date is False
    rebuilt = tree()
    assert {name: rebuilt[name] for name in rebuilt if "/layout/" in name} == {
        name: before[name] for name in before if "/layout/" in name
    }


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(build_request.CONTEXT, tmp_path / "dockerfiles"))
    monkeypatch.setattr(build_request, "CONTEXT", copy)
    return copy


def inputs(binaries: dist.Artifacts, **changes: Any) -> str:
    options = ImageOptions(
        variant=Variant.ROOT, engine=Name.BUILDKIT, base=Origin.AUTO, target=TARGET
    )
    known = {"packages": [package("git")], "epoch": EPOCH}
    chosen = {key: changes.pop(key, value) for key, value in known.items()}
    return build._inputs(replace(options, **changes), binaries, **chosen)


def test_every_input_is_in_the_digest(finished: Path, context: Path) -> None:
    binaries = dist.load(finished)
    other = json.loads(json.dumps(binaries.manifest))
    other["files"][0]["sha256"] = "9" * 64
    seen = [
        inputs(binaries), inputs(binaries, variant=Variant.ROOTLESS), inputs(binaries, epoch=1),
        inputs(binaries, packages=[]), inputs(binaries, packages=[package("git"), package("tini")]),
        inputs(binaries, packages=[package("git", version="2")]),
        inputs(binaries, packages=[package("git", architecture="all")]),
        inputs(binaries, packages=[package("git", sha256="3" * 64)]),
        inputs(binaries, packages=[package("git", only="usr/bin/git")]),
        *(inputs(replace(binaries, manifest={**binaries.manifest, key: "other"}))
          for key in ("version", "revision")),
        inputs(replace(binaries, manifest=other)),
    ]  # fmt: skip
    for path in (context / "buildkit.Dockerfile", context / "common/usr/bin/buildkitd-entrypoint"):
        path.write_text(path.read_text() + "#\n")
        seen.append(inputs(binaries))
    path.chmod(0o644)
    seen.append(inputs(binaries))
    path.rename(path.with_name("other"))
    seen.append(inputs(binaries))
    (context / "common/new").touch()
    seen.append(inputs(binaries))
    assert len(set(seen)) == len(seen)


def test_engine_and_location_are_not_in_the_digest(
    finished: Path, context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binaries = dist.load(finished)
    first = inputs(binaries)
    for changes in ({"engine": Name.DOCKER}, {"base": Origin.ROOTFS}, {"force": True}, {"load": True}):  # fmt: skip
        assert inputs(binaries, **changes) == first
    elsewhere = shutil.copytree(context, tmp_path / "elsewhere")
    give_to_the_group(elsewhere)
    monkeypatch.setattr(engines, "CONTEXT", elsewhere)
    assert inputs(binaries) == first


# Binaries.


def test_cross_compiled_binaries_are_refused(machine: Machine, finished: Path) -> None:
    edit_manifest(finished, lambda manifest: manifest["host"].update(arch="amd64"))
    with pytest.raises(NotNativeError) as caught:
        build.build(parse())
    assert "linux-riscv64" in caught.value.brief
    assert "amd64" in caught.value.brief
    assert "invoke build-binaries" in caught.value.hint
    assert machine.done == []


@pytest.mark.parametrize("garbage", ["{}", '{"arch": ""}', "null", '"riscv64"', "[]"])
def test_binaries_without_a_host_are_refused(
    machine: Machine, finished: Path, garbage: str
) -> None:
    edit_manifest(finished, lambda manifest: manifest.update(host=json.loads(garbage)))
    with pytest.raises(CheckError, match="host"):
        build.build(parse())


def test_damaged_binaries_are_refused(machine: Machine, finished: Path) -> None:
    with (finished / "bin/buildkitd").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckError, match="linux-riscv64: bin/buildkitd: sha256: ") as caught:
        build.build(parse())
    assert "invoke build-binaries --force" in caught.value.hint
    assert machine.done == []


def test_no_binaries(machine: Machine, finished: Path, provided: list[object]) -> None:
    shutil.rmtree(finished)
    for options, dry in ((parse(), False), (parse(load=True), False), (parse(), True)):
        with (
            dry_run.running(dry=dry),
            pytest.raises(CheckError, match="no artifacts in") as caught,
        ):
            build.build(options)
        assert "invoke build-binaries" in caught.value.hint
    assert (machine.done, provided) == ([], [])


@pytest.mark.parametrize(
    ("options", "tried"),
    [
        ({"engine": "docker"}, "connect to build"),
        ({"engine": "docker", "load": True}, "connect to build"),
        ({"load": True}, "connect"),
    ],
)
def test_missing_docker_is_reported_first(
    machine: Machine,
    provided: list[object],
    commands: Commands,
    options: dict[str, Any],
    tried: str,
) -> None:
    machine.fails[tried] = MissingRequirementError("no docker engine answers")
    with pytest.raises(MissingRequirementError):
        build.build(parse(**options))
    assert machine.done == [tried]
    assert (provided, commands.calls) == ([], [])


@pytest.mark.parametrize("free", [0, build.NEEDED_BYTES - 1])
def test_too_little_space_is_reported_first(
    machine: Machine, commands: Commands, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.ROOT)
    machine.free = free
    with pytest.raises(StorageError) as caught:
        build.build(parse())
    reported = "0 B" if not free else "2.0 GiB"
    assert reported in caught.value.brief
    assert "dist" in caught.value.brief
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert machine.done == []


def test_concurrent_run_is_refused(machine: Machine) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError):
        build.build(parse())
    assert machine.done == []


# Failures.


WRONG: list[BaseException] = [
    KeyboardInterrupt(), BuildError("x"), OSError(errno.ENOSPC, "No space left on device", "/x")
]  # fmt: skip


@pytest.mark.parametrize("error", WRONG, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["update", "fetch", "base", "start buildkit", "build"])
@pytest.mark.parametrize("known", [True, False])
def test_failure_keeps_dist(machine: Machine, known: bool, when: str, error: BaseException) -> None:
    if known:
        build.build(parse())
    before = tree()
    machine.fails[when] = error
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        build.build(parse(force=True))
    assert tree() == before
    assert leftovers() == []
    with dist.lock(TARGET):
        pass


def test_failure_stops_the_engine(machine: Machine) -> None:
    machine.fails["build"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build.build(parse())
    assert machine.done[-2:] == ["build", "stop"]


@pytest.mark.parametrize(
    ("damage", "reported"),
    [
        (lambda m: m.fake.add(entry("usr/bin/su", mode=0o4755)), "layers: setuid and setgid"),
        (lambda m: m.fake.config.update(User="1"), "image: user: 1, expected 0"),
        (lambda m: m.fake.layers[1].pop(), "layers: BuildKit's commands: "),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_refused_image_is_not_published(
    machine: Machine, damage: Callable[[Machine], object], reported: str, known: bool
) -> None:
    if known:
        build.build(parse())
    before = tree()
    damage(machine)
    with pytest.raises(CheckError, match=f"linux-riscv64 root: {reported}") as caught:
        build.build(parse(force=True))
    assert caught.value.hint == check.REMEDY
    assert tree() == before
    assert leftovers() == []


def test_image_that_does_not_run_is_not_published(
    machine: Machine, fake_container: FakeContainer
) -> None:
    fake_container.codes["runc"] = 127
    with pytest.raises(CheckError, match="linux-riscv64 root: runc: runs: exit code 127"):
        build.build(parse())
    assert not (project.DIST / "linux-riscv64" / dist.IMAGE).exists()


def test_engine_without_output(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeImage, "write", lambda _self, place: place.mkdir())
    with pytest.raises(CheckError, match="layout"):
        build.build(parse())
    assert leftovers() == []


@pytest.mark.parametrize(
    ("error", "when", "full", "reported"),
    [
        (BuildError("buildctl failed"), "build", False, "buildctl failed"),
        (BuildError("buildctl failed"), "build", True, "no space left"),
        (BuildError("write /x: no space left on device"), "build", False, "no space left"),
        (BuildError("buildkitd does not answer"), "start buildkit", True, "no space left"),
        (NetworkError("x"), "fetch", True, "x"),
    ],
)  # fmt: skip
def test_full_disk_is_reported(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    error: Failure,
    when: str,
    full: bool,
    reported: str,
) -> None:
    """Programs may report a full disk only as a failure."""

    def fail() -> None:
        machine.free = 0 if full else build.NEEDED_BYTES
        raise error

    do = machine.do
    monkeypatch.setattr(machine, "do", lambda what: fail() if what == when else do(what))
    with pytest.raises(Failure) as caught:
        build.build(parse())
    assert reported in caught.value.brief
    assert isinstance(caught.value, StorageError) is reported.startswith("no space")
    assert leftovers() == []


def test_full_disk_during_the_check_is_reported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CheckError("umoci unpack failed: no space left on device")

    monkeypatch.setattr(check, "require_good", refuse)
    with pytest.raises(StorageError):
        build.build(parse())


# Dry runs and loading.


def test_dry(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    provided: list[object],
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project.ROOT)
    before = tree()
    with dry_run.running(dry=True):
        outcome = build.build(parse(rootless=True))
    assert outcome.artifacts is None
    output = capsys.readouterr().err
    assert "BuildKit v0.32.2" in output
    assert "dist/linux-riscv64/image/rootless/" in output
    assert (machine.done, provided, commands.calls) == ([], [], [])
    assert tree() == before


def test_dry_with_a_garbage_manifest(machine: Machine, finished: Path) -> None:
    (finished / dist.MANIFEST).write_text("{}")
    with dry_run.running(dry=True), pytest.raises(Failure):
        build.build(parse())


@pytest.mark.parametrize("rootless", [False, True])
def test_finished_image_is_loaded(machine: Machine, rootless: bool) -> None:
    machine.fake = FakeImage(machine.fake.binaries, Variant(["root", "rootless"][rootless]))
    suffix = "-rootless" if rootless else ""
    outcome = build.build(parse(load=True, rootless=rootless))
    assert machine.done == ["connect", *BUILT, "load"]
    assert outcome.artifacts is not None
    archive = outcome.artifacts.path / f"buildkit{suffix}-v0.32.2.linux-riscv64.image.tar"
    assert machine.loaded == [(archive, f"buildkit-riscv64:v0.32.2{suffix}")]
    assert outcome.loaded == f"buildkit-riscv64:v0.32.2{suffix}"


def test_current_image_is_loaded(machine: Machine) -> None:
    build.build(parse())
    outcome = build.build(parse(load=True))
    assert outcome.up_to_date
    assert outcome.loaded == "buildkit-riscv64:v0.32.2"


def test_image_stays_if_docker_cannot_load_it(machine: Machine) -> None:
    machine.fails["load"] = BuildError("docker cannot load it")
    with pytest.raises(BuildError):
        build.build(parse(load=True))
    assert (project.DIST / "linux-riscv64" / ROOT / dist.MANIFEST).is_file()


def test_engine_docker_does_not_load_by_itself(machine: Machine) -> None:
    assert build.build(parse(engine="docker")).loaded == ""
    assert machine.loaded == []


def test_lists_are_in_the_dockerfile_context() -> None:
    assert build_request.CONTEXT / "packages" == packages.LISTS
