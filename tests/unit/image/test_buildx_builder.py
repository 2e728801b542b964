from __future__ import annotations

import errno
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker as sdk
import pytest
import requests

from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.errors import BuildError, Failure, MissingRequirementError
from buildkit_riscv64.image import build_request, buildx_builder
from buildkit_riscv64.image.build_request import Request
from buildkit_riscv64.image.variants import Variant

from ..factories import Commands

HOST = "unix:///var/run/docker.sock"
DOCKER_20 = "20.10.24+dfsg1"


@dataclass
class Image:
    """An image in the engine."""

    tags: list[str]

    def tag(self, repository: str, tag: str) -> None:
        # podman rejects a tag in a repository's name.
        assert ":" not in repository.rpartition("/")[2]
        self.tags.append(f"{repository}:{tag}")


@dataclass
class Engine:
    """A fake engine, as the SDK's client."""

    engine: str = "26.1.5+dfsg1"
    component: str = "Engine"
    loads: list[Image] = field(default_factory=list)
    loaded: list[bytes] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    fails: Exception | None = None

    @property
    def images(self) -> Engine:
        return self

    def version(self) -> dict[str, Any]:
        if self.fails:
            raise self.fails
        return {"Version": self.engine, "Components": [{"Name": self.component}, {"Name": "runc"}]}

    def load(self, file: Any) -> list[Image]:
        if self.fails:
            raise self.fails
        self.loaded.append(file.read())
        return self.loads


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Engine:
    """A recent engine that answers."""
    engine = Engine()

    def from_env(environment: dict[str, str], timeout: int) -> Engine:
        engine.hosts.append(environment["DOCKER_HOST"])
        return engine

    monkeypatch.setattr(sdk, "from_env", from_env)
    commands.answer("docker", "context", stdout=f"{HOST}\n")
    return engine


# Detection.


def test_client_uses_the_docker_context(
    engine: Engine, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://another:2375")
    assert buildx_builder.connect(builds=True) is engine
    assert commands.args == [
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    ]
    assert engine.hosts == [HOST]


def test_client_uses_docker_host_without_contexts(
    engine: Engine, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.answer("docker", "context", code=1, stderr="unknown command")
    monkeypatch.setenv("DOCKER_HOST", "tcp://another:2375")
    buildx_builder.connect(builds=True)
    assert engine.hosts == ["tcp://another:2375"]


@pytest.mark.parametrize("version", ["25.0.0", "25.0", "26.1.5+dfsg1", "100.0.1", "dev", "", "library-import"])  # fmt: skip
def test_recent_engine(engine: Engine, version: str) -> None:
    engine.engine = version
    assert buildx_builder.connect(builds=True) is engine


@pytest.mark.parametrize("version", [DOCKER_20, "24.0.9", "9.0", "25.0.0-beta.1"])
def test_too_old_engine(engine: Engine, version: str) -> None:
    engine.engine = version
    with pytest.raises(MissingRequirementError) as caught:
        buildx_builder.connect(builds=True)
    assert version in caught.value.brief
    assert "25.0" in caught.value.brief
    assert "--engine buildkit" in caught.value.hint
    assert buildx_builder.connect(builds=False) is engine, "it can still load an image"


# podman answers like docker.


def test_podman_loads_but_does_not_build(engine: Engine) -> None:
    engine.engine, engine.component = "5.4.2", "Podman Engine"
    assert buildx_builder.connect(builds=False) is engine
    with pytest.raises(MissingRequirementError) as caught:
        buildx_builder.connect(builds=True)
    assert "podman 5.4.2" in caught.value.brief
    assert "--engine buildkit" in caught.value.hint
    assert "upgrade" not in caught.value.hint


@pytest.mark.parametrize(
    ("output", "answer", "engine"),
    [
        ("Docker version 28.2.2", {"Version": "28.2.2", "Components": [{"Name": "Engine"}]}, "engine 28.2.2"),
        ("Docker version 28.2.2", {"Version": "20.10", "Components": None}, "engine 20.10"),
        ("Docker version 28.2.2", {"Version": "5.4.2", "Components": [{"Name": "Podman Engine"}]}, "podman 5.4.2"),
        ("podman version 5.4.2", None, "podman 5.4.2"),
    ],
)  # fmt: skip
def test_engine_of_an_answer(commands: Commands, output: str, answer: Any, engine: str) -> None:
    commands.answer("docker", "version", stdout=f"{json.dumps(answer)}\n")
    commands.answer("docker", "--version", stdout=f"{output}\n")
    assert str(buildx_builder.engine()) == engine


@pytest.mark.parametrize("answer", ["null", "", "{}", "text"])
def test_engine_without_an_answer(commands: Commands, answer: str) -> None:
    commands.answer("docker", "version", stdout=f"{answer}\n")
    with pytest.raises(MissingRequirementError):
        buildx_builder.engine()


def test_podman_hint_names_its_service(engine: Engine, commands: Commands) -> None:
    commands.answer("docker", "--version", stdout="podman version 5.4.2\n")
    engine.fails = FileNotFoundError(errno.ENOENT, "No such file or directory")
    with pytest.raises(MissingRequirementError) as caught:
        buildx_builder.connect(builds=False)
    assert "systemctl start podman.socket" in caught.value.hint


def caused(error: Exception, cause: Exception) -> Exception:
    """The SDK's error for an error of its HTTP library."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        sdk.errors.DockerException("Error while fetching server API version"),
        requests.exceptions.ConnectionError("Connection refused"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        KeyError("Version"), ValueError("not JSON"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_no_engine_answers(engine: Engine, error: Exception) -> None:
    engine.fails = error
    with pytest.raises(MissingRequirementError) as caught:
        buildx_builder.connect(builds=True)
    assert HOST in caught.value.brief
    assert "systemctl start docker" in caught.value.hint
    assert "--engine buildkit" in caught.value.hint


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        caused(sdk.errors.DockerException("x"), PermissionError(errno.EACCES, "denied")),
        sdk.errors.DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))"),
    ],
)  # fmt: skip
def test_no_permission_for_the_engine(engine: Engine, error: Exception) -> None:
    engine.fails = error
    with pytest.raises(MissingRequirementError) as caught:
        buildx_builder.connect(builds=True)
    assert "permission" in caught.value.brief
    assert HOST in caught.value.brief
    assert 'usermod --append --groups docker "$USER"' in caught.value.hint
    assert "--engine buildkit" in caught.value.hint


# Loading.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "x.image.tar").write_bytes(b"an image")
    return tmp_path / "x.image.tar"


NAME = "buildkit-riscv64:v0.32.2"


@pytest.mark.parametrize("tags", [[], [NAME], ["another"]])
def test_loaded_image_is_tagged(engine: Engine, archive: Path, tags: list[str]) -> None:
    image = Image(list(tags))
    engine.loads = [image]
    buildx_builder.load(engine, archive, NAME)
    assert engine.loaded == [b"an image"]
    assert image.tags == [*(tag for tag in tags if tag != NAME), NAME]


@pytest.mark.parametrize(
    "error",
    [
        sdk.errors.ImageLoadError("no space left on device"),
        # Errors of the SDK that are OSErrors.
        sdk.errors.APIError("500 Server Error"),
        requests.exceptions.ConnectionError("Connection aborted."),
        requests.exceptions.ReadTimeout("Read timed out."),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_docker_refuses_the_archive(engine: Engine, archive: Path, error: Exception) -> None:
    engine.fails = error
    with pytest.raises(BuildError) as caught:
        buildx_builder.load(engine, archive, NAME)
    assert "x.image.tar" in caught.value.brief
    assert str(error) in caught.value.brief


def test_unreadable_archive_is_an_os_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        buildx_builder.load(engine, tmp_path / "none", NAME)
    assert engine.loaded == []


# The builder.


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> list[list[list[str]]]:
    """The commands for a killed run, and how many commands ran before."""
    seen: list[Any] = []

    @contextmanager
    def run_if_killed(removal: Sequence[Sequence[str]]) -> Iterator[None]:
        seen.extend([[list(words) for words in removal], len(commands.calls)])
        yield
        seen.append("disarmed")

    monkeypatch.setattr(process, "run_if_killed", run_if_killed)
    return seen


@pytest.fixture
def names(checkout: Path) -> tuple[str, str, str]:
    name, base, ours = buildx_builder._names()
    identity = name.removeprefix("buildkit-riscv64-")
    assert len(identity) == 12
    assert base == f"localhost/buildkit-riscv64:base-{identity}"
    assert ours == f"localhost/buildkit-riscv64:{identity}"
    return name, base, ours


def test_names_differ_by_checkout(
    names: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(project, "ROOT", tmp_path / "another")
    assert not set(buildx_builder._names()) & set(names)


def removal(names: tuple[str, str, str]) -> list[list[str]]:
    name, base, ours = names
    return [["docker", "buildx", "rm", "--force", name], ["docker", "image", "rm", "--force", base, ours]]  # fmt: skip


def creation(names: tuple[str, str, str]) -> list[str]:
    name, _, ours = names
    return [
        "docker", "buildx", "create", f"--name={name}", "--driver=docker-container",
        f"--driver-opt=image={ours}", "--bootstrap",
    ]  # fmt: skip


@pytest.mark.usefixtures("armed")
def test_builder_is_built_started_and_removed(
    wanted: Request, engine: Engine, commands: Commands, names: tuple[str, str, str]
) -> None:
    name, base, ours = names
    engine.loads = [Image([])]
    with buildx_builder.builder(wanted) as builder:
        assert builder == name
        assert len(commands.calls) == 6
    version, context, *rest = commands.args
    assert version == ["docker", "buildx", "version"]
    assert context[:3] == ["docker", "context", "inspect"]
    assert rest == [
        *removal(names),  # leftovers of a killed run
        # The builder always has the root image.
        build_request.buildx(
            replace(wanted, variant=Variant.ROOT), "default", f"docker-image://{base}", "--load", f"--tag={ours}"
        ),
        creation(names),
        *removal(names),
    ]  # fmt: skip
    assert engine.loads[0].tags == [base]


@pytest.mark.usefixtures("armed")
def test_docker_loads_the_base(
    wanted: Request,
    engine: Engine,
    names: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In an archive that old engines support; it is removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with buildx_builder.builder(wanted):
        (content,) = engine.loaded
    (tmp_path / "loaded.tar").write_bytes(content)
    with tarfile.open(tmp_path / "loaded.tar") as tar:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(tar.getnames())
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_run_removes_the_builder(
    wanted: Request,
    engine: Engine,
    commands: Commands,
    armed: list[Any],
    names: tuple[str, str, str],
) -> None:
    with buildx_builder.builder(wanted):
        reported, before = armed
    assert reported == removal(names)
    assert "create" not in [word for args in commands.args[:before] for word in args]
    assert engine.loaded
    assert armed[-1] == "disarmed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, BuildError, RuntimeError])
@pytest.mark.parametrize("when", ["load", "build", "create", "use"])
@pytest.mark.usefixtures("armed")
def test_failure_removes_everything(
    wanted: Request,
    engine: Engine,
    commands: Commands,
    names: tuple[str, str, str],
    when: str,
    error: type[BaseException],
) -> None:
    def fail(*_: object) -> None:
        raise error("x")

    if when == "load":
        engine.load = fail  # type: ignore[assignment, method-assign]
    elif when != "use":
        commands.answer("docker", "buildx", when, does=fail)
    with pytest.raises((error, BuildError)), buildx_builder.builder(wanted):
        fail()
    assert commands.args[-2:] == removal(names)


CAPS = "ERROR: Error response from daemon: unable to apply caps: operation not permitted"


@pytest.mark.parametrize(
    ("answer", "kind", "brief", "hint"),
    [
        ({"stderr": f"#1 booting\n{CAPS}\n"}, MissingRequirementError,
         f"this docker engine cannot start privileged containers here: {CAPS}",
         "--engine buildkit"),
        ({"stdout": f"{CAPS}\n", "stderr": "ERROR: exit 1\n"}, MissingRequirementError,
         "this docker engine cannot start privileged containers here: ERROR: exit 1",
         "--engine buildkit"),
        ({"stderr": "ERROR: timeout\n"}, BuildError, "buildx cannot start our image: ERROR: timeout",
         "see `docker logs`, or use --engine buildkit"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("armed")
def test_builder_does_not_start(
    wanted: Request,
    engine: Engine,
    commands: Commands,
    names: tuple[str, str, str],
    answer: dict[str, str],
    kind: type[Failure],
    brief: str,
    hint: str,
) -> None:
    commands.answer("docker", "buildx", "create", code=1, **answer)  # type: ignore[arg-type]
    with pytest.raises(kind) as caught, buildx_builder.builder(wanted):
        pytest.fail("it is used")
    assert brief in caught.value.brief
    assert hint in caught.value.hint
    assert commands.args[-2:] == removal(names)


def test_failed_build_of_the_builder(
    wanted: Request, engine: Engine, commands: Commands, armed: list[Any]
) -> None:
    commands.answer("docker", "buildx", "build", code=1)
    with pytest.raises(BuildError) as caught, buildx_builder.builder(wanted):
        pytest.fail("it is used")
    assert "docker buildx build" in caught.value.brief


def test_no_buildx(wanted: Request, engine: Engine, commands: Commands) -> None:
    commands.answer("docker", "buildx", code=1, stderr="docker: 'buildx' is not a docker command.")
    with pytest.raises(MissingRequirementError) as caught, buildx_builder.builder(wanted):
        pytest.fail("it is used")
    assert "buildx" in caught.value.brief
    assert "docker-buildx" in caught.value.hint
    assert commands.args == [["docker", "buildx", "version"]]


@pytest.mark.parametrize("damage", [lambda e: setattr(e, "engine", DOCKER_20), lambda e: setattr(e, "fails", ValueError())])  # fmt: skip
def test_missing_engine_is_not_used(
    wanted: Request, engine: Engine, commands: Commands, damage: Callable[[Engine], None]
) -> None:
    damage(engine)
    with pytest.raises(MissingRequirementError), buildx_builder.builder(wanted):
        pytest.fail("it is used")
    assert [args[1:3] for args in commands.args][:2] == [["buildx", "version"], ["context", "inspect"]]  # fmt: skip
    assert {call.verb for call in commands.calls} == {"probe"}
