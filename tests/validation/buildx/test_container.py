"""The docker-container driver, on our image."""

from __future__ import annotations

import json
import re
from pathlib import Path

from packaging.version import Version

from buildkit_riscv64.arch import Platform

from ...integration.registry import Registry
from ...processes import eventually
from ..bases import BaseImage
from ..cgroups import require
from ..conftest import NewContext
from ..daemon import BOUND
from ..scenario import not_proven
from .docker import Docker, cached, container, unique, volume

#: The time tells whether it has run again.
CLOCK = "FROM base\nRUN date +%s%N >/when\n"


def said(client: Docker, name: str) -> str:
    """What a container has said."""
    done = client("logs", name).good()
    return done.stdout + done.stderr


def test_bootstrap(client: Docker, builder: str, version: str) -> None:
    """buildx starts the image as a builder, and tini has no complaint"""
    seen = client.buildx("inspect", builder).good().stdout
    assert re.search(r"^Status:\s+running$", seen, re.M)
    assert re.search(rf"^Build[Kk]it( version)?:\s+{re.escape(version)}$", seen, re.M)
    assert str(Platform.here()) in seen
    log = said(client, container(builder))
    assert "found 1 workers" in log
    assert "tini" not in log.lower()
    state = client.inspect("container", container(builder))
    assert state["HostConfig"]["Init"] is True
    assert state["Image"] == client.inspect("image", client.image)["Id"]


def test_alone(client: Docker) -> None:
    """The image alone in docker: tini reaps what nobody waits for, and SIGTERM ends it"""
    with client.running("--privileged") as name:
        inside = ["exec", name]
        workers = [*inside, "buildctl", "debug", "workers"]
        assert eventually(lambda: client(*workers).code == 0, BOUND)

        def states() -> list[str]:
            """Of the orphans that there are."""
            seen = client(*inside, "sh", "-c", "cat /proc/[0-9]*/stat").stdout
            return re.findall(r"^\d+ \(sleep\) (\w)", seen, re.M)

        client(*inside, "sh", "-c", "sleep 3 & exit").good()
        assert eventually(lambda: set(states()) <= {"Z"}, BOUND)
        assert eventually(lambda: not states(), 5), "an orphan that has ended stays a zombie"
        assert "tini" not in said(client, name).lower()
        client("stop", "--time=60", name).good()
        state = client.inspect("container", name)["State"]
        # Not 137, for SIGKILL. With 1, upstream says that it was asked to.
        assert (state["Running"], state["ExitCode"]) == (False, 1)


def test_load_and_run(client: Docker, builder: str, base: BaseImage, new_context: NewContext) -> None:  # fmt: skip
    """What is built with --load runs in docker"""
    name = unique()
    context = new_context("FROM base\nARG WHO\nRUN echo hello $WHO >/hello\nCMD [\"cat\", \"/hello\"]\n")  # fmt: skip
    with client.images(name):
        client.build(builder, context, "--load", f"--tag={name}", "--build-arg=WHO=docker", f"--build-context={base.context()}").good()  # fmt: skip
        assert client("run", "--rm", "--network=none", name).good().stdout == "hello docker\n"


def test_push_and_pull(
    client: Docker, builder: str, base: BaseImage, new_context: NewContext, near: Registry, tmp_path: Path
) -> None:  # fmt: skip
    """What is pushed comes back with the same digest, and runs"""
    name = f"{near.host}/pushed:one"
    told = tmp_path / "metadata.json"
    context = new_context('FROM base\nRUN echo pushed >/what\nCMD ["cat", "/what"]\n')
    client.build(builder, context, "--push", f"--tag={name}", f"--metadata-file={told}", f"--build-context={base.context()}").good()  # fmt: skip
    digest = json.loads(told.read_text())["containerimage.digest"]
    by_digest = f"{near.host}/pushed@{digest}"
    with client.images(name, by_digest):
        client("pull", name).good()
        assert client.inspect("image", name)["RepoDigests"] == [by_digest]
        assert client("run", "--rm", "--network=none", by_digest).good().stdout == "pushed\n"


def test_bake(client: Docker, builder: str, bake_file: Path) -> None:
    """bake builds several targets, with variables and what they inherit"""
    tag = unique()
    with client.images(f"{tag}-one", f"{tag}-two"):
        client.buildx(
            "bake", f"--builder={builder}", "--progress=plain", "--load", cwd=bake_file,
            env={"GREETING": "good morning", "TAG": tag},
        ).good()  # fmt: skip
        for which, greeting in (("one", "good morning"), ("two", "GOOD MORNING")):
            got = client("run", "--rm", "--network=none", f"{tag}-{which}", "cat", "/which", "/greeting").good()  # fmt: skip
            assert got.stdout == f"{which}\n{greeting}\n"


def test_bake_prints_its_plan(client: Docker, bake_file: Path) -> None:
    """bake --print resolves variables, inheritance and overrides, and builds nothing"""
    plan = client.buildx("bake", "--print", "--set=one.args.GREETING=set", "two", "one", cwd=bake_file).good().json  # fmt: skip
    assert plan["target"]["one"]["args"] == {"GREETING": "set"}
    assert plan["target"]["two"]["args"] == {"GREETING": "FROM THE FILE"}
    assert set(plan["group"]["default"]["targets"]) == {"one", "two"}


def test_imagetools(client: Docker, builder: str, base: BaseImage, new_context: NewContext, near: Registry) -> None:  # fmt: skip
    """imagetools inspects what was pushed, and joins two platforms' images into one index"""
    here = Platform.here()
    other = next(one for one in (Platform.ARM64, Platform.RISCV64) if one is not here)
    context = new_context("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /which\n", **{one.architecture: one for one in (here, other)})  # fmt: skip
    names = {one: f"{near.host}/tools:{one.architecture}" for one in (here, other)}
    for one, name in names.items():
        client.build(builder, context, f"--platform={one}", "--push", f"--tag={name}").good()
    shown = client.buildx("imagetools", "inspect", names[here]).good().stdout
    assert re.search(r"^MediaType:\s+application/vnd\.oci\.image\.manifest", shown, re.M)
    both = f"{near.host}/tools:both"
    client.buildx("imagetools", "create", f"--tag={both}", *names.values()).good()
    index = client.buildx("imagetools", "inspect", "--raw", both).good().json
    digests = {
        (one["platform"]["os"], one["platform"]["architecture"]): one["digest"]
        for one in index["manifests"]
    }
    wanted = {
        ("linux", one.architecture): re.search(
            r"^Digest:\s+(\S+)", client.buildx("imagetools", "inspect", name).good().stdout, re.M
        )[1]  # type: ignore[index]
        for one, name in names.items()
    }
    assert digests == wanted


def test_cache_between_builders(client: Docker, builder: str, base: BaseImage, new_context: NewContext, near: Registry, tmp_path: Path) -> None:  # fmt: skip
    """A builder finds in a registry and in a folder what another one has built"""
    context = new_context(CLOCK)
    with_base = f"--build-context={base.context()}"
    places = {
        "registry": f"type=registry,ref={near.host}/cache:one",
        "local": f"type=local,dest={tmp_path / 'cache'}",
    }

    def when(which: str, *args: str) -> str:
        """The time at which a builder's step ran: another's, where that was found."""
        out = tmp_path / unique()
        client.build(which, context, with_base, f"--output=type=local,dest={out}", *args).good()
        return (out / "when").read_text()

    first = when(builder, *(f"--cache-to={place},mode=max" for place in places.values()))
    with client.builder("--driver-opt=network=host") as another:
        for place in places.values():
            assert when(another, f"--cache-from={place.replace('dest=', 'src=')}") == first
            client.buildx("prune", f"--builder={another}", "--all", "--force").good()


def builds(client: Docker, builder: str, context: Path, base: BaseImage) -> str:
    """What a build does with its step."""
    done = client.build(builder, context, f"--build-context={base.context()}").good()
    return "takes it from the cache" if cached(done, "RUN date") else "runs it"


def test_stop_and_start(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """A builder that is stopped ends by itself, and has its cache when it is started again"""
    context = new_context(CLOCK)
    with client.builder() as name:
        assert builds(client, name, context, base) == "runs it"
        client.buildx("stop", name).good()
        state = client.inspect("container", container(name))["State"]
        # Not 137, for SIGKILL. With 1, upstream says that it was asked to.
        assert (state["Running"], state["ExitCode"]) == (False, 1)
        client.buildx("inspect", "--bootstrap", name).good()
        assert client.inspect("container", container(name))["State"]["Running"]
        assert builds(client, name, context, base) == "takes it from the cache"


def test_remove(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """A builder removed with --keep-state has its cache when it is made again; else all is gone"""
    context = new_context(CLOCK)
    with client.builder() as name:
        assert builds(client, name, context, base) == "runs it"
        client.buildx("rm", "--keep-state", name).good()
        assert client.inspect("container", container(name)) is None
        client.buildx("create", f"--name={name}", "--driver=docker-container", f"--driver-opt=image={client.image}").good()  # fmt: skip
        assert builds(client, name, context, base) == "takes it from the cache"
        client.buildx("rm", name).good()
        assert client.inspect("container", container(name)) is None
        assert client.inspect("volume", volume(name)) is None


def test_driver_options(client: Docker) -> None:
    """--driver-opt: environment, network, and limits that hold in the container"""
    require("memory", "cpu")
    options = ["network=host", "env.GREETING=hello", "memory=300m", "cpu-period=100000", "cpu-quota=150000"]  # fmt: skip
    with client.builder("--bootstrap", *(f"--driver-opt={option}" for option in options)) as name:
        ours = client.inspect("container", container(name))
        assert ours["HostConfig"]["NetworkMode"] == "host"
        inside = ["exec", container(name)]
        assert client(*inside, "sh", "-c", "echo $GREETING").good().stdout == "hello\n"
        limits = (
            "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max;"
            " else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; fi"
        )
        assert client(*inside, "sh", "-c", limits).good().stdout.split() == [str(300 << 20), "150000", "100000"]  # fmt: skip


def test_default_load(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """--driver-opt default-load: what is built is in docker without --load"""
    if client.version < Version("0.14"):
        not_proven(f"buildx {client.version} has no default-load; 0.14 has")
    name = unique()
    with client.builder("--driver-opt=default-load=true") as ours, client.images(name):
        client.build(ours, new_context(CLOCK), f"--tag={name}", f"--build-context={base.context()}").good()  # fmt: skip
        assert client.inspect("image", name)


def test_configuration(client: Docker, tmp_path: Path) -> None:
    """A buildkitd.toml given to buildx is what the daemon in the container goes by"""
    config = tmp_path / "buildkitd.toml"
    config.write_text(
        'debug = true\n[worker.oci.labels]\n  "where" = "validation"\n'
        '[[worker.oci.gcpolicy]]\n  all = true\n  keepBytes = "123MB"\n'
    )
    # Its name since 0.14; Debian's 0.13 has it too.
    flag = "--buildkitd-config" if "--buildkitd-config" in client.options("create") else "--config"
    with client.builder("--bootstrap", f"{flag}={config}") as name:
        (worker,) = client("exec", container(name), "buildctl", "debug", "workers", "--format={{json .}}").good().json  # fmt: skip
        assert worker["labels"]["where"] == "validation"
        (policy,) = worker["gcPolicy"]
        assert 123 << 20 in policy.values()
        assert "level=debug" in said(client, container(name))


def test_du_and_prune(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """buildx du tells what a builder keeps, and prune gives it back"""
    with client.builder() as name:
        client.build(name, new_context(CLOCK), f"--build-context={base.context()}").good()
        assert "date +%s%N" in client.buildx("du", f"--builder={name}", "--verbose").good().stdout
        client.buildx("prune", f"--builder={name}", "--all", "--force").good()
        left = client.buildx("du", f"--builder={name}", "--verbose").good().stdout
        assert "date +%s%N" not in left
        assert re.search(r"^Total:\s+0B$", left, re.M)


def test_history(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """buildx history lists the builds of a builder, with those that failed"""
    if client.version < Version("0.19"):
        not_proven(f"buildx {client.version} has no history; 0.19 has")
    with client.builder() as name:
        with_base = f"--build-context={base.context()}"
        client.build(name, new_context(CLOCK), with_base).good()
        client.build(name, new_context("FROM base\nRUN false\n"), with_base).bad("exit code: 1")
        listed = client.buildx("history", "ls", f"--builder={name}", "--format=json").good().stdout
        builds = [json.loads(line) for line in listed.splitlines()]
        assert sorted(one["status"] for one in builds) == ["Completed", "Error"]
