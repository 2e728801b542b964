from __future__ import annotations

import errno
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

from buildkit_riscv64 import process, project
from buildkit_riscv64.errors import BuildError, Failure, MissingRequirementError
from buildkit_riscv64.image import docker, engines
from buildkit_riscv64.image.engines import Request
from buildkit_riscv64.image.variants import Variant

from ..making import Commands

HOST = "unix:///var/run/docker.sock"
DOCKER_20 = "20.10.24+dfsg1"


@dataclass
class Image:
    """An image in the engine."""

    tags: list[str]

    def tag(self, name: str) -> None:
        self.tags.append(name)


@dataclass
class Engine:
    """A docker engine, as the SDK sees it."""

    engine: str = "26.1.5+dfsg1"
    loads: list[Image] = field(default_factory=list)
    loaded: list[bytes] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    fails: Exception | None = None

    @property
    def images(self) -> Engine:
        return self

    def version(self) -> dict[str, str]:
        if self.fails:
            raise self.fails
        return {"Version": self.engine}

    def load(self, file: Any) -> list[Image]:
        if self.fails:
            raise self.fails
        self.loaded.append(file.read())
        return self.loads


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Engine:
    """An engine that is there and new enough."""
    made = Engine()

    def from_env(environment: dict[str, str], timeout: int) -> Engine:
        made.hosts.append(environment["DOCKER_HOST"])
        return made

    monkeypatch.setattr(sdk, "from_env", from_env)
    commands.answer("docker", "context", stdout=f"{HOST}\n")
    return made


# Is it there?


def test_the_engine_is_the_one_of_the_docker_command(engine: Engine, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DOCKER_HOST", "tcp://another:2375")
    assert docker.connect(builds=True) is engine
    assert commands.args == [
        ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    ]
    assert engine.hosts == [HOST]


def test_without_contexts_it_is_the_one_of_the_environment(engine: Engine, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    commands.answer("docker", "context", code=1, stderr="unknown command")
    monkeypatch.setenv("DOCKER_HOST", "tcp://another:2375")
    docker.connect(builds=True)
    assert engine.hosts == ["tcp://another:2375"]


@pytest.mark.parametrize("version", ["25.0.0", "25.0", "26.1.5+dfsg1", "100.0.1", "dev", "", "library-import"])  # fmt: skip
def test_an_engine_that_is_new_enough(engine: Engine, version: str) -> None:
    engine.engine = version
    assert docker.connect(builds=True) is engine


@pytest.mark.parametrize("version", [DOCKER_20, "24.0.9", "9.0", "25.0.0-beta.1"])
def test_an_engine_that_is_too_old(engine: Engine, version: str) -> None:
    engine.engine = version
    with pytest.raises(MissingRequirementError) as caught:
        docker.connect(builds=True)
    assert caught.value.brief == f"docker engine {version} is too old: at least 25.0"
    assert caught.value.hint == "upgrade it (Debian 13 has 26.1), or use --engine buildkit"
    assert docker.connect(builds=False) is engine, "it can still load an image"


def caused(error: Exception, cause: Exception) -> Exception:
    """As the SDK reports what its HTTP library reports."""
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
        docker.connect(builds=True)
    assert caught.value.brief == f"no docker engine answers at {HOST}"
    assert caught.value.hint == (
        "sudo systemctl start docker, or do without: --engine buildkit, and no --load"
    )


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        caused(sdk.errors.DockerException("x"), PermissionError(errno.EACCES, "denied")),
        sdk.errors.DockerException("('Connection aborted.', PermissionError(13, 'Permission denied'))"),
    ],
)  # fmt: skip
def test_an_engine_that_we_may_not_use(engine: Engine, error: Exception) -> None:
    engine.fails = error
    with pytest.raises(MissingRequirementError) as caught:
        docker.connect(builds=True)
    assert caught.value.brief == f"no permission to use the docker engine at {HOST}"
    assert caught.value.hint == (
        'be in group docker: sudo usermod --append --groups docker "$USER", then log in again;'
        " or do without: --engine buildkit, and no --load"
    )


# What it is told.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "x.image.tar").write_bytes(b"an image")
    return tmp_path / "x.image.tar"


NAME = "buildkit-riscv64:v0.32.2"


@pytest.mark.parametrize("tags", [[], [NAME], ["another"]])
def test_docker_has_it_by_our_name(engine: Engine, archive: Path, tags: list[str]) -> None:
    image = Image(list(tags))
    engine.loads = [image]
    docker.load(engine, archive, NAME)
    assert engine.loaded == [b"an image"]
    assert image.tags == [*(tag for tag in tags if tag != NAME), NAME]


@pytest.mark.parametrize(
    "error",
    [
        sdk.errors.ImageLoadError("no space left on device"),
        # These are OSErrors too, and yet none of ours.
        sdk.errors.APIError("500 Server Error"),
        requests.exceptions.ConnectionError("Connection aborted."),
        requests.exceptions.ReadTimeout("Read timed out."),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_docker_refuses_it(engine: Engine, archive: Path, error: Exception) -> None:
    engine.fails = error
    with pytest.raises(BuildError) as caught:
        docker.load(engine, archive, NAME)
    assert caught.value.brief == f"docker cannot load x.image.tar: {error}"
    assert caught.value.hint == "is there space? docker system df"


def test_an_archive_that_cannot_be_read_is_not_dockers_fault(engine: Engine, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(FileNotFoundError):
        docker.load(engine, tmp_path / "none", NAME)
    assert engine.loaded == []


# A builder of our own image.


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> list[list[list[str]]]:
    """What would be done if we were killed, and how many commands had run by then."""
    seen: list[Any] = []

    @contextmanager
    def afterwards(removal: Sequence[Sequence[str]]) -> Iterator[None]:
        seen.extend([[list(words) for words in removal], len(commands.calls)])
        yield
        seen.append("disarmed")

    monkeypatch.setattr(process, "afterwards", afterwards)
    return seen


@pytest.fixture
def names(checkout: Path) -> tuple[str, str, str]:
    name, base, ours = docker._names()
    identity = name.removeprefix("buildkit-riscv64-")
    assert len(identity) == 12
    assert base == f"localhost/buildkit-riscv64:base-{identity}"
    assert ours == f"localhost/buildkit-riscv64:{identity}"
    return name, base, ours


def test_each_checkout_has_its_names(names: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr(project, "ROOT", tmp_path / "another")
    assert not set(docker._names()) & set(names)


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
def test_a_builder_is_built_started_and_removed(wanted: Request, engine: Engine, commands: Commands, names: tuple[str, str, str]) -> None:  # fmt: skip
    name, base, ours = names
    engine.loads = [Image([])]
    with docker.builder(wanted) as builder:
        assert builder == name
        assert len(commands.calls) == 6
    version, context, *rest = commands.args
    assert version == ["docker", "buildx", "version"]
    assert context[:3] == ["docker", "context", "inspect"]
    assert rest == [
        *removal(names),  # what a killed run may have left
        # A builder is root's, whatever it is to build.
        engines.buildx(
            replace(wanted, variant=Variant.ROOT), "default", f"docker-image://{base}", "--load", f"--tag={ours}"
        ),
        creation(names),
        *removal(names),
    ]  # fmt: skip
    assert engine.loads[0].tags == [base]


@pytest.mark.usefixtures("armed")
def test_dockers_own_buildkit_gets_our_base(wanted: Request, engine: Engine, names: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    """As an archive that old engines take too; it is not left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with docker.builder(wanted):
        (content,) = engine.loaded
    (tmp_path / "loaded.tar").write_bytes(content)
    with tarfile.open(tmp_path / "loaded.tar") as tar:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(tar.getnames())
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_it_is_removed_too(wanted: Request, engine: Engine, commands: Commands, armed: list[Any], names: tuple[str, str, str]) -> None:  # fmt: skip
    with docker.builder(wanted):
        told, before = armed
    assert told == removal(names)
    assert "create" not in [word for args in commands.args[:before] for word in args]
    assert engine.loaded
    assert armed[-1] == "disarmed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, BuildError, RuntimeError])
@pytest.mark.parametrize("when", ["load", "build", "create", "use"])
@pytest.mark.usefixtures("armed")
def test_whatever_happens_it_is_removed(wanted: Request, engine: Engine, commands: Commands, names: tuple[str, str, str], when: str, error: type[BaseException]) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error("x")

    if when == "load":
        engine.load = fail  # type: ignore[assignment, method-assign]
    elif when != "use":
        commands.answer("docker", "buildx", when, does=fail)
    with pytest.raises((error, BuildError)), docker.builder(wanted):
        fail()
    assert commands.args[-2:] == removal(names)


CAPS = "ERROR: Error response from daemon: unable to apply caps: operation not permitted"


@pytest.mark.parametrize(
    ("answer", "kind", "brief", "hint"),
    [
        ({"stderr": f"#1 booting\n{CAPS}\n"}, MissingRequirementError,
         f"this docker engine cannot start privileged containers here: {CAPS}",
         "use a newer one (Debian 13's does), or --engine buildkit"),
        ({"stdout": f"{CAPS}\n", "stderr": "ERROR: exit 1\n"}, MissingRequirementError,
         "this docker engine cannot start privileged containers here: ERROR: exit 1",
         "use a newer one (Debian 13's does), or --engine buildkit"),
        ({"stderr": "ERROR: timeout\n"}, BuildError, "buildx cannot start our image: ERROR: timeout",
         "see `docker logs`, or use --engine buildkit"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("armed")
def test_a_builder_that_does_not_start(wanted: Request, engine: Engine, commands: Commands, names: tuple[str, str, str], answer: dict[str, str], kind: type[Failure], brief: str, hint: str) -> None:  # fmt: skip
    commands.answer("docker", "buildx", "create", code=1, **answer)  # type: ignore[arg-type]
    with pytest.raises(kind) as caught, docker.builder(wanted):
        pytest.fail("it is used")
    assert (caught.value.brief, caught.value.hint) == (brief, hint)
    assert commands.args[-2:] == removal(names)


def test_a_build_of_dockers_that_fails(wanted: Request, engine: Engine, commands: Commands, armed: list[Any]) -> None:  # fmt: skip
    commands.answer("docker", "buildx", "build", code=1)
    with pytest.raises(BuildError) as caught, docker.builder(wanted):
        pytest.fail("it is used")
    assert caught.value.hint == "the step that failed is above"


def test_no_buildx(wanted: Request, engine: Engine, commands: Commands) -> None:
    commands.answer("docker", "buildx", code=1, stderr="docker: 'buildx' is not a docker command.")
    with pytest.raises(MissingRequirementError) as caught, docker.builder(wanted):
        pytest.fail("it is used")
    assert caught.value.brief == "docker has no buildx here"
    assert caught.value.hint == "apt-get install docker-buildx, or use --engine buildkit"
    assert commands.args == [["docker", "buildx", "version"]]


@pytest.mark.parametrize("spoil", [lambda e: setattr(e, "engine", DOCKER_20), lambda e: setattr(e, "fails", ValueError())])  # fmt: skip
def test_nothing_is_asked_of_an_engine_that_is_not_there(wanted: Request, engine: Engine, commands: Commands, spoil: Callable[[Engine], None]) -> None:  # fmt: skip
    spoil(engine)
    with pytest.raises(MissingRequirementError), docker.builder(wanted):
        pytest.fail("it is used")
    assert [args[1:3] for args in commands.args] == [["buildx", "version"], ["context", "inspect"]]
