"""Randomly damaged documents from outside: their readers succeed or fail with a documented code.

A traceback is a defect, and so is exit code 1. HYPOTHESIS_EXAMPLES sets the number of examples for
each document.
"""

from __future__ import annotations

import copy
import json
import os
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invoke.context import MockContext

from benchmarks import records
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import config, dist, filesystem, pins, project
from buildkit_riscv64.core.errors import Failure
from buildkit_riscv64.image import registry
from buildkit_riscv64.machine.machines import Machine
from buildkit_riscv64.upstream import outdated
from tasks import ns

from ..fake_github import BASE, Hub, release
from . import documents
from .factories import GO, Commands
from .machine.conftest import MachineCommands, base, machine  # noqa: F401 - fixtures
from .mutations import damaged
from .phase4 import hub, releasable  # noqa: F401 - fixtures

#: Derandomized, so that only a change of the code causes a new failure.
hostile = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")), deadline=None, database=None,
    derandomize="HYPOTHESIS_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def ends_well(call: Callable[[], object]) -> None:
    """Assert that a call succeeds or raises a documented failure."""
    failure = None
    try:
        call()
    except Failure as error:
        failure = error
    if failure:
        assert type(failure) is not Failure, failure.brief
        assert failure.hint, failure.brief
        assert len(failure.brief) < 2000


def task(name: str, /, *, dry: bool = False, **flags: Any) -> Callable[[], object]:
    """A call of a task with flags."""

    def call() -> object:
        context = MockContext()
        context.config.update(copy.deepcopy(config.DEFAULTS))
        context.config.run.update(dry=dry)
        return ns[name](context, **flags)

    return call


@pytest.fixture
def everything(releasable: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """dist/linux-riscv64 with every kind of document; no process is started."""
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    filesystem.write_json(releasable / dist.VERDICT, documents.valid(documents.CROSS_CHECK))
    return releasable


READERS: dict[str, list[Callable[[], object]]] = {
    "manifest.json": [
        task("status"), task("status", json=True), task("check-binaries", json=True), task("check-binaries"),
        task("verify-binaries", dry=True, rebuild=True), task("build-image", dry=True),
        task("build-packages", dry=True), task("release", dry=True), task("validate", dry=True),
        task("evidence.show"), task("publish-repo", dry=True, unsigned=True), task("build-binaries", dry=True),
    ],
    "image/root/manifest.json": [
        task("status"), task("check-image"), task("push-image", dry=True), task("validate", dry=True),
        task("evidence.show"), task("release", dry=True), task("build-image", dry=True),
    ],
    "image/root/layout/index.json": [task("check-image"), task("push-image", dry=True)],
    "evidence/evidence.json": [
        task("evidence.show"), task("evidence.show", json=True), task("status"), task("release", dry=True),
        task("validate", dry=True),
    ],
    "packages/manifest.json": [
        task("status"), task("publish-repo", dry=True, unsigned=True), task("release", dry=True),
        task("build-packages", dry=True),
    ],
    "cross-check.json": [task("status"), task("release", dry=True)],
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@hostile
@given(data=st.data())
def test_documents_in_dist(everything: Path, name: str, data: st.DataObject) -> None:
    path = everything / name
    good = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(json.loads(good))))
        ends_well(data.draw(st.sampled_from(READERS[name])))
    finally:
        path.write_bytes(good)


@hostile
@given(data=st.data())
def test_evidence_compare(everything: Path, tmp_path: Path, data: st.DataObject) -> None:
    good = json.loads((everything / "evidence/evidence.json").read_text())
    (tmp_path / dist.RESULTS).write_bytes(data.draw(damaged(good)))
    ends_well(task("evidence.show", compare=str(tmp_path)))


@pytest.mark.parametrize("kind", list(dist.Kind))
@hostile
@given(data=st.data())
def test_finished_directories(checkout: Path, kind: dist.Kind, data: st.DataObject) -> None:
    path = project.DIST / "x"
    path.mkdir(parents=True, exist_ok=True)
    document = getattr(documents, kind.name)
    (path / kind.description).write_bytes(data.draw(damaged(dict(document))))
    ends_well(lambda: dist.load(path, kind))


@hostile
@given(content=st.binary(max_size=200))
def test_checksums(everything: Path, content: bytes) -> None:
    path = everything / dist.SUMS
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        for call in (task("status"), task("check-binaries"), task("release", dry=True)):
            ends_well(call)
    finally:
        path.write_bytes(good)


MACHINE_TASKS = [
    task("machine.list"), task("machine.list", json=True), task("machine.status", name="one"),
    task("machine.logs", name="one"), task("machine.start", dry=True, name="one"),
    task("machine.reset", dry=True, name="one"), task("machine.destroy", dry=True, name="one"),
    task("on", dry=True, machine="one"), task("machine.stop", dry=True, name="one"),
]  # fmt: skip


@hostile
@given(text=damaged(dict(documents.MACHINE)), call=st.sampled_from(MACHINE_TASKS))
def test_machines(machine: Machine, commands: MachineCommands, text: bytes, call: Callable[[], object]) -> None:  # noqa: F811  # fmt: skip
    (machine.path / "machine.json").write_bytes(text)
    ends_well(call)


CONFIGURATION: dict[str, Any] = {
    "yes": False,
    "binaries": {"source": "auto", "goriscv64": "", "via": "go", "bundle": False},
    "image": {"engine": "buildkit", "base": "auto", "registry": ""},
    "packages": {"maintainer": "me <me@example.org>", "url": ""},
    "boards": {"f3": "me@192.168.1.185", "other": "ssh://root@[::1]:22"},
    "run": {"dry": False},
}


@hostile
@given(text=damaged(CONFIGURATION))
def test_invoke_yaml(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "invoke.yaml").write_bytes(text)

    def read() -> None:
        loaded = config.Config(
            defaults={**config.Config.global_defaults(), **config.DEFAULTS},
            project_location=tmp_path,
        )
        loaded.load_project()
        loaded.load_shell_env()
        config.read(loaded)

    ends_well(read)


@hostile
@given(text=st.text() | st.text(alphabet="{}[]:,- \n&*!?|>'\"%@`#abyesno01~<"))
def test_any_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "invoke.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    ends_well(lambda: config.Config(project_location=tmp_path).load_project())


DOCKER: dict[str, Any] = {
    "auths": {"registry.example": {"auth": "bWU6c2VjcmV0"}, "ghcr.io": {}, "x": {"identitytoken": "t"}},
    "credHelpers": {"other.example": "no-such-helper"},
    "psFormat": "table",
}  # fmt: skip


@hostile
@given(text=damaged(DOCKER), host=st.sampled_from(["registry.example", "ghcr.io", "other.example"]))
def test_logins_of_docker(monkeypatch: pytest.MonkeyPatch, text: bytes, host: str) -> None:
    for name in (registry.USERNAME, registry.PASSWORD, "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    directory = Path.home() / ".docker"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes(text)
    ends_well(lambda: registry.login(host))


@hostile
@given(text=damaged({"Repository": "x", "Tags": ["v0.32.2", "latest"]}))
def test_tags_of_a_registry(commands: Commands, text: bytes) -> None:
    commands.answer("list-tags", stdout=text.decode(errors="replace"))
    remote = registry.Registry(registry.Reference.parse("registry.example/x"), "/authfile")
    ends_well(remote.tags)


def _toml_value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return value.isoformat()
        case dict():
            return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"  # fmt: skip
        case list():
            return "[" + ", ".join(map(_toml_value, value)) + "]"
        case None:
            return '""'
        case _:
            return json.dumps(value)


def _as_toml(document: Any) -> bytes:
    if not isinstance(document, dict):
        return _toml_value(document).encode()
    return "\n".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in document.items()).encode()


PINS = tomllib.loads((Path(__file__).parents[2] / "pins/pins.toml").read_text())


@hostile
@given(text=damaged(PINS, _as_toml))
def test_pins(checkout: Path, text: bytes) -> None:
    pins.load()
    good = project.PINS.read_bytes()
    project.PINS.write_bytes(text)
    try:
        ends_well(pins.load)
        ends_well(task("pins.show"))
    finally:
        project.PINS.write_bytes(good)


@hostile
@given(data=st.data())
def test_kept_results(tmp_path: Path, data: st.DataObject) -> None:
    results = sorted(
        (Path(__file__).parents[2] / "benchmarks/results").glob(f"{records.NAME}.*.json")
    )
    document = json.loads(results[0].read_text())
    document["runs"] = document["runs"][:1]
    path = tmp_path / results[0].name
    path.write_bytes(data.draw(damaged(document)))
    ends_well(lambda: records.load(path))


GO_RELEASES = [{"version": "go1.26.10", "stable": True}, {"version": "go1.27rc1", "stable": False}]


@hostile
@given(text=damaged(GO_RELEASES))
def test_releases_of_go(checkout: Path, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        content = text

    monkeypatch.setattr(outdated, "_fetch", lambda _url: Answer)
    ends_well(outdated._go)


class Spoiled:
    """A fake GitHub with a replacement for one response."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
        #: The responses, in order.
        self.answers: list[Any] = []
        #: Replacements of responses, by the number of the request.
        self.instead: dict[int, str] = {}
        answer = hub._answer

        def answered(*args: Any) -> Any:
            code, headers, body = answer(*args)
            number = len(self.answers)
            self.answers.append(body)
            return code, headers, self.instead.get(number, body)

        monkeypatch.setattr(hub, "_answer", answered)


@pytest.fixture
def spoiled(hub: Hub, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Spoiled:  # noqa: F811
    hub.upstream.releases = [release("v0.33.0"), release("v0.32.2"), release("v0.1.0", draft=True, published_at=None)]  # fmt: skip
    hub.ours.releases = [release("v0.31.0")]
    hub.ours.refs["heads/main"] = hub.know(BASE)
    hub.ours.issues = [
        {"number": 7, "state": "open", "body": "<!-- track-releases: v0.31.0 -->", "labels": [{"name": "upstream-release"}]}
    ]  # fmt: skip
    hub.ours.pulls = [
        {"number": 8, "state": "open", "head": {"label": "me:track-releases/v0.31.0", "ref": "track-releases/v0.31.0"}}
    ]  # fmt: skip
    monkeypatch.setattr(outdated, "examine", lambda _client: [])
    for name, value in {
        "GITHUB_WORKFLOW": "w", "GITHUB_RUN_ID": "1", "GITHUB_SERVER_URL": "https://x", "GITHUB_REF_NAME": "main",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return Spoiled(hub, monkeypatch)


@pytest.mark.parametrize(
    "call", [task("track-releases", dry=True), task("notify-build", dry=True, result="failure")]
)
@hostile
@given(data=st.data())
def test_answers_of_github(
    spoiled: Spoiled, slept: list[float], call: Callable[[], object], data: st.DataObject
) -> None:
    spoiled.answers, spoiled.instead = [], {}
    call()
    right, spoiled.answers = spoiled.answers, []
    number = data.draw(st.integers(0, len(right) - 1))
    spoiled.instead = {number: data.draw(damaged(right[number])).decode("utf-8", "replace")}
    ends_well(call)
