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

from buildkit_riscv64 import dist, host, pins, project, schemas, storage
from buildkit_riscv64.arch import Architecture, Target
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import (
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
from buildkit_riscv64.image import build, check, container, docker, engines, layout, packages, tools
from buildkit_riscv64.image.build import Options
from buildkit_riscv64.image.engines import Name, Request
from buildkit_riscv64.image.packages import Package
from buildkit_riscv64.image.tools import Base, Origin
from buildkit_riscv64.image.variants import Variant

from ..making import COMMIT, GO, Commands, edit_manifest
from .picture import EPOCH, TARGET, Alive, Picture, entry, give_to_the_group

# What is asked.


def parse(**changes: Any) -> Options:
    asked: dict[str, Any] = {"rootless": False, "engine": "buildkit", "base": "auto", "target": ""}
    return Options.parse(**asked | changes)


def test_options(on: Callable[[str], None]) -> None:
    on("riscv64")
    assert parse() == Options(
        variant=Variant.ROOT, engine=Name.BUILDKIT, base=Origin.AUTO, target=TARGET
    )
    assert parse(
        rootless=True, engine="docker", base="rootfs", target="linux-riscv64-rva22u64", load=True,
        force=True, dry=True, yes=True,
    ) == Options(
        variant=Variant.ROOTLESS, engine=Name.DOCKER, base=Origin.ROOTFS, load=True, force=True,
        target=Target.parse("linux-riscv64-rva22u64"), dry=True, yes=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "brief", "hint"),
    [
        ({"engine": "podman"}, "--engine podman: no such engine", "one of: buildkit, docker"),
        ({"engine": ""}, "--engine : no such engine", "one of: buildkit, docker"),
        ({"engine": "BuildKit"}, "--engine BuildKit: no such engine", "one of: buildkit, docker"),
        ({"base": "alpine"}, "--base alpine: no such base", "one of: auto, registry, rootfs"),
        ({"target": "riscv64"}, "'riscv64' is not a target", "give one like linux-riscv64 or linux-riscv64-rva22u64"),
        ({"target": "../../etc"}, "'../../etc' is not a target", "give one like linux-riscv64 or linux-riscv64-rva22u64"),
    ],
)  # fmt: skip
def test_what_there_is_not(on: Callable[[str], None], wrong: dict[str, str], brief: str, hint: str) -> None:  # fmt: skip
    on("riscv64")
    with pytest.raises(UsageError) as caught:
        parse(**wrong)
    assert (caught.value.brief, caught.value.hint) == (brief, hint)


def test_an_image_of_another_architecture_is_built_there(on: Callable[[str], None]) -> None:
    on("x86_64")
    with pytest.raises(NotNativeError) as caught:
        parse(target="linux-riscv64")
    assert caught.value.brief == (
        "an image for linux-riscv64 is built and tested on riscv64, and this machine is amd64"
    )
    assert caught.value.hint == "invoke on riscv64 -- build-image"


# A whole build, of Debian's packages that nobody fetches, by an engine that only writes.


def package(name: str, **changes: Any) -> Package:
    values: dict[str, Any] = {
        "version": "1:1", "architecture": "riscv64", "sha256": "2" * 64, "size": 1
    }  # fmt: skip
    return Package(name=name, **values | changes)


class Machine:
    """What a build finds, and what it did; tests break one thing each.

    As Archive it plays Debian, as an engine it writes a picture.
    """

    def __init__(self, base: Base) -> None:
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
        self.picture: Picture
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

    def place(self, wanted: list[Package], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.placed[folder.name] = [one.name for one in wanted]

    def ensure(self, origin: Origin, archive: object, unpacking: list[Package], *, yes: bool) -> Base:  # fmt: skip
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

    def build(self, request: Request, folder: Path) -> None:
        self.requests.append(request)
        assert sorted(path.name for path in request.packages.iterdir()) == sorted(self.placed)
        self.picture.write(folder)
        (folder / "ingest").mkdir()
        self.do("build")


@pytest.fixture
def machine(finished: Path, base: Base, alive: Alive, provided: list[object], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Machine:  # fmt: skip
    made = Machine(base)
    made.picture = Picture(dist.load(finished))
    for command in dist.COMMANDS:
        said = f"{command} {pins.MODULE} v0.32.2 {COMMIT}\n"
        commands.answer(str(finished / "bin" / command), "--version", stdout=said)
        commands.answer(str(finished / "bin" / command), "--help", stdout="USAGE:\n")
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    monkeypatch.setattr(host, "free_bytes", lambda _path: made.free)
    archive = {Architecture.RISCV64: made}
    monkeypatch.setattr(build, "Archive", archive.__getitem__)
    monkeypatch.setattr(tools, "ensure", made.ensure)
    monkeypatch.setattr(engines, "running", made.running)

    def connect(*, builds: bool) -> Machine:
        made.do("connect to build" if builds else "connect")
        return made

    def load(client: object, archive: Path, name: str) -> None:
        assert client is made
        assert archive.is_file()
        made.loaded.append((archive, name))
        made.do("load")

    monkeypatch.setattr(docker, "connect", connect)
    monkeypatch.setattr(docker, "load", load)
    return made


ROOT = dist.IMAGE + "/root"
BUILT = ["lock", "update", "fetch", "base", "start buildkit", "build", "stop", "unlock"]


def tree() -> dict[str, str]:
    folder = project.DIST / "linux-riscv64"
    return {str(p.relative_to(folder)): storage.sha256(p) for p in folder.rglob("*") if p.is_file()}


def leftovers() -> list[str]:
    return [path.name for path in project.DIST.glob(".*") if path.suffix != ".lock"]


def test_an_image_is_built_checked_and_published(machine: Machine, provided: list[object], alive: Alive) -> None:  # fmt: skip
    outcome = build.build(parse(yes=True))
    assert machine.done == BUILT
    assert provided == [(list(container.TOOLS), True)]
    assert alive.lived == 1
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


def test_the_manifest(machine: Machine) -> None:
    artifacts = build.build(parse(base="rootfs")).artifacts
    assert artifacts is not None
    manifest = dict(artifacts.manifest)
    assert schemas.objection(manifest, schemas.IMAGE) == ""
    image = layout.load(artifacts.path / dist.LAYOUT)
    binaries = dist.load(dist.folder(TARGET))
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


def test_how_it_was_made(machine: Machine) -> None:
    artifacts = build.build(parse(engine="docker", base="registry")).artifacts
    assert artifacts is not None
    made = artifacts.manifest["build"]
    assert made["engine"] == "docker"
    # What was had, not what was asked for.
    assert made["base"] == {"origin": "rootfs", "digest": machine.base.digest}
    assert machine.origins == [Origin.REGISTRY]
    assert made["started"] <= made["finished"]


def test_what_the_engine_is_asked_for(machine: Machine) -> None:
    build.build(parse())
    (request,) = machine.requests
    words = {"title": "BuildKit", "version": "v0.32.2", "created": "2026-08-04T12:27:40Z",
             "revision": COMMIT, "source": "https://github.com/moby/buildkit"}  # fmt: skip
    assert request == Request(
        variant=Variant.ROOT, base=machine.base, binaries=dist.folder(TARGET) / "bin",
        packages=project.DIST / ".linux-riscv64.image-root.staging" / "scratch", epoch=EPOCH,
        arguments={name.upper(): word for name, word in words.items()},
        annotations={
            f"org.opencontainers.image.{name}": word
            for name, word in (words | {"licenses": "Apache-2.0"}).items()
        },
    )  # fmt: skip


@pytest.mark.parametrize("rootless", [False, True])
def test_packages_of_both_variants_are_placed(machine: Machine, rootless: bool) -> None:
    """Most of the work is the same for both, and so taken from the first."""
    machine.picture = Picture(machine.picture.binaries, Variant(["root", "rootless"][rootless]))
    artifacts = build.build(parse(rootless=rootless)).artifacts
    assert artifacts is not None
    assert machine.fetched == ["git", "tini", "uidmap", "tar", "setcap"]
    assert machine.placed == {"root": ["git", "tini"], "rootless": ["uidmap"], "helpers": ["setcap"]}  # fmt: skip
    assert [one["name"] for one in artifacts.manifest["packages"]] == [
        "git", "tini", *(["uidmap"] if rootless else [])
    ]  # fmt: skip


def test_a_rootless_image(machine: Machine) -> None:
    machine.picture = Picture(machine.picture.binaries, Variant.ROOTLESS)
    artifacts = build.build(parse(rootless=True)).artifacts
    assert artifacts is not None
    assert artifacts.path == project.DIST / "linux-riscv64/image/rootless"
    assert "buildkit-rootless-v0.32.2.linux-riscv64.image.tar" in artifacts.files
    (request,) = machine.requests
    assert (request.variant, request.arguments["TITLE"]) == ("rootless", "BuildKit, rootless")


def test_missing_security_updates_are_recorded(machine: Machine) -> None:
    machine.updates = False
    artifacts = build.build(parse()).artifacts
    assert artifacts is not None
    assert artifacts.manifest["security_updates"] is False


# What decides.


def test_nothing_to_do(machine: Machine) -> None:
    first = build.build(parse())
    before = tree()
    machine.done.clear()
    again = build.build(parse(engine="buildkit", base="rootfs"))
    assert again.up_to_date
    assert first.artifacts is not None
    assert again.artifacts == first.artifacts
    assert machine.done == ["lock", "update", "unlock"]
    assert tree() == before


def test_who_asks_for_it_gets_every_step_anew(machine: Machine) -> None:
    build.build(parse())
    assert build.build(parse(force=True)).up_to_date is False
    assert [request.cached for request in machine.requests] == [True, False]


@pytest.mark.parametrize("name", ["layout/index.json", "sbom.cdx.json", "SHA256SUMS"])
def test_a_damaged_image_is_made_anew(machine: Machine, name: str) -> None:
    build.build(parse())
    before = tree()
    with (project.DIST / "linux-riscv64" / ROOT / name).open("a") as file:
        file.write("x")
    assert build.build(parse()).up_to_date is False
    made = tree()
    assert {name: made[name] for name in made if "/layout/" in name} == {
        name: before[name] for name in before if "/layout/" in name
    }


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(engines.CONTEXT, tmp_path / "dockerfiles"))
    monkeypatch.setattr(engines, "CONTEXT", copy)
    return copy


def inputs(binaries: dist.Artifacts, **changes: Any) -> str:
    options = Options(variant=Variant.ROOT, engine=Name.BUILDKIT, base=Origin.AUTO, target=TARGET)
    known = {"packages": [package("git")], "epoch": EPOCH}
    chosen = {key: changes.pop(key, value) for key, value in known.items()}
    return build._inputs(replace(options, **changes), binaries, **chosen)


def test_everything_that_decides_is_in_the_digest(finished: Path, context: Path) -> None:
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


def test_how_it_is_made_does_not_decide(finished: Path, context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    binaries = dist.load(finished)
    first = inputs(binaries)
    for changes in ({"engine": Name.DOCKER}, {"base": Origin.ROOTFS}, {"force": True}, {"load": True}):  # fmt: skip
        assert inputs(binaries, **changes) == first
    elsewhere = shutil.copytree(context, tmp_path / "elsewhere")
    give_to_the_group(elsewhere)
    monkeypatch.setattr(engines, "CONTEXT", elsewhere)
    assert inputs(binaries) == first


# What it is made of.


def test_binaries_that_were_compiled_elsewhere_are_refused(machine: Machine, finished: Path) -> None:  # fmt: skip
    edit_manifest(finished, lambda manifest: manifest["host"].update(arch="amd64"))
    with pytest.raises(NotNativeError) as caught:
        build.build(parse())
    assert caught.value.brief == "the binaries for linux-riscv64 were compiled on amd64"
    assert caught.value.hint == "build them natively: `invoke build-binaries`"
    assert machine.done == []


@pytest.mark.parametrize("garbage", ["{}", '{"arch": ""}', "null", '"riscv64"', "[]"])
def test_binaries_of_which_nobody_knows_where(machine: Machine, finished: Path, garbage: str) -> None:  # fmt: skip
    edit_manifest(finished, lambda manifest: manifest.update(host=json.loads(garbage)))
    with pytest.raises(Failure, match="were compiled on nobody knows what"):
        build.build(parse())


def test_damaged_binaries_are_refused(machine: Machine, finished: Path) -> None:
    with (finished / "bin/buildkitd").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckError, match="linux-riscv64: bin/buildkitd: sha256: ") as caught:
        build.build(parse())
    assert caught.value.hint == "run `invoke build-binaries --force` to make it anew"
    assert machine.done == []


def test_no_binaries(machine: Machine, finished: Path, provided: list[object]) -> None:
    shutil.rmtree(finished)
    for options in (parse(), parse(load=True), parse(dry=True)):
        with pytest.raises(CheckError, match="no artifacts in") as caught:
            build.build(options)
        assert caught.value.hint == "run `invoke build-binaries` first"
    assert (machine.done, provided) == ([], [])


@pytest.mark.parametrize(
    ("options", "tried"),
    [
        ({"engine": "docker"}, "connect to build"),
        ({"engine": "docker", "load": True}, "connect to build"),
        ({"load": True}, "connect"),
        ({"load": True, "dry": True}, "connect"),
    ],
)
def test_no_docker_is_told_at_once(machine: Machine, provided: list[object], commands: Commands, options: dict[str, Any], tried: str) -> None:  # fmt: skip
    machine.fails[tried] = MissingRequirementError("no docker engine answers")
    with pytest.raises(MissingRequirementError):
        build.build(parse(**options))
    assert machine.done == [tried]
    assert (provided, commands.calls) == ([], [])


@pytest.mark.parametrize("free", [0, build.NEEDED_BYTES - 1])
def test_too_little_space_is_told_at_once(machine: Machine, commands: Commands, free: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(project.ROOT)
    machine.free = free
    with pytest.raises(StorageError) as caught:
        build.build(parse())
    told = "0 B" if not free else "2.0 GiB"
    assert caught.value.brief == f"only {told} free for dist, and an image takes up to 2.0 GiB"
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert machine.done == []


def test_another_run_is_at_work(machine: Machine) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError):
        build.build(parse())
    assert machine.done == []


# It goes wrong.


WRONG: list[BaseException] = [
    KeyboardInterrupt(), BuildError("x"), OSError(errno.ENOSPC, "No space left on device", "/x")
]  # fmt: skip


@pytest.mark.parametrize("error", WRONG, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["update", "fetch", "base", "start buildkit", "build"])
@pytest.mark.parametrize("known", [True, False])
def test_whatever_happens_dist_is_as_it_was(machine: Machine, known: bool, when: str, error: BaseException) -> None:  # fmt: skip
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


def test_the_engine_is_ended_whatever_happens(machine: Machine) -> None:
    machine.fails["build"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build.build(parse())
    assert machine.done[-2:] == ["build", "stop"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda m: m.picture.add(entry("usr/bin/su", mode=0o4755)), "layers: setuid and setgid"),
        (lambda m: m.picture.config.update(User="1"), "image: user: 1, expected 0"),
        (lambda m: m.picture.layers[1].pop(), "layers: BuildKit's commands: "),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_an_image_that_is_refused_is_not_published(machine: Machine, spoil: Callable[[Machine], object], told: str, known: bool) -> None:  # fmt: skip
    if known:
        build.build(parse())
    before = tree()
    spoil(machine)
    with pytest.raises(CheckError, match=f"linux-riscv64 root: {told}") as caught:
        build.build(parse(force=True))
    assert caught.value.hint == check.REMEDY
    assert tree() == before
    assert leftovers() == []


def test_an_image_that_does_not_run_is_not_published(machine: Machine, alive: Alive) -> None:
    alive.codes["runc"] = 127
    with pytest.raises(CheckError, match="linux-riscv64 root: runc: runs: exit code 127"):
        build.build(parse())
    assert not (project.DIST / "linux-riscv64" / dist.IMAGE).exists()


def test_an_engine_that_makes_no_layout(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Picture, "write", lambda _self, place: place.mkdir())
    with pytest.raises(CheckError, match="is not the layout of an image"):
        build.build(parse())
    assert leftovers() == []


@pytest.mark.parametrize(
    ("error", "when", "full", "told"),
    [
        (BuildError("buildctl failed"), "build", False, "buildctl failed"),
        (BuildError("buildctl failed"), "build", True, "no space left while writing "),
        (BuildError("write /x: no space left on device"), "build", False, "no space left while writing "),
        (BuildError("buildkitd does not answer"), "start buildkit", True, "no space left while writing "),
        (NetworkError("x"), "fetch", True, "x"),
    ],
)  # fmt: skip
def test_a_disk_that_gets_full_is_told_as_such(machine: Machine, monkeypatch: pytest.MonkeyPatch, error: Failure, when: str, full: bool, told: str) -> None:  # fmt: skip
    """Who writes there may have no better words for it than that it failed."""

    def fail() -> None:
        machine.free = 0 if full else build.NEEDED_BYTES
        raise error

    do = machine.do
    monkeypatch.setattr(machine, "do", lambda what: fail() if what == when else do(what))
    with pytest.raises(Failure) as caught:
        build.build(parse())
    assert caught.value.brief.startswith(told)
    assert isinstance(caught.value, StorageError) is told.startswith("no space")
    assert leftovers() == []


def test_a_disk_that_gets_full_while_it_is_checked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise CheckError("umoci unpack failed: no space left on device")

    monkeypatch.setattr(check, "require_good", refuse)
    with pytest.raises(StorageError):
        build.build(parse())


# Said and loaded.


def test_dry(machine: Machine, capsys: pytest.CaptureFixture[str], provided: list[object], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(project.ROOT)
    before = tree()
    outcome = build.build(parse(dry=True, rootless=True))
    assert outcome.artifacts is None
    assert capsys.readouterr().err == (
        f"would fetch Debian's packages named in {engines.CONTEXT}/packages/\n"
        "would build the target rootless of buildkit.Dockerfile with buildkit, BuildKit v0.32.2\n"
        "would then check the result, run it, and publish it in dist/linux-riscv64/image/rootless/\n"
    )
    assert (machine.done, provided, commands.calls) == ([], [], [])
    assert tree() == before


def test_dry_with_a_garbage_manifest(machine: Machine, finished: Path) -> None:
    (finished / dist.MANIFEST).write_text("{}")
    with pytest.raises(Failure):
        build.build(parse(dry=True))


@pytest.mark.parametrize("rootless", [False, True])
def test_docker_loads_it_when_it_is_finished(machine: Machine, rootless: bool) -> None:
    machine.picture = Picture(machine.picture.binaries, Variant(["root", "rootless"][rootless]))
    suffix = "-rootless" if rootless else ""
    outcome = build.build(parse(load=True, rootless=rootless))
    assert machine.done == ["connect", *BUILT, "load"]
    assert outcome.artifacts is not None
    archive = outcome.artifacts.path / f"buildkit{suffix}-v0.32.2.linux-riscv64.image.tar"
    assert machine.loaded == [(archive, f"buildkit-riscv64:v0.32.2{suffix}")]
    assert outcome.loaded == f"buildkit-riscv64:v0.32.2{suffix}"


def test_docker_loads_too_what_is_up_to_date(machine: Machine) -> None:
    build.build(parse())
    outcome = build.build(parse(load=True))
    assert outcome.up_to_date
    assert outcome.loaded == "buildkit-riscv64:v0.32.2"


def test_an_image_that_docker_does_not_load_is_there_all_the_same(machine: Machine) -> None:
    machine.fails["load"] = BuildError("docker cannot load it")
    with pytest.raises(BuildError):
        build.build(parse(load=True))
    assert (project.DIST / "linux-riscv64" / ROOT / dist.MANIFEST).is_file()


def test_the_engine_docker_loads_nothing_unasked(machine: Machine) -> None:
    assert build.build(parse(engine="docker")).loaded == ""
    assert machine.loaded == []


def test_our_lists_are_where_the_dockerfile_finds_them() -> None:
    assert engines.CONTEXT / "packages" == packages.LISTS
