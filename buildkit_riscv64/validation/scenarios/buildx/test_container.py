"""The docker-container driver, on our image."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.version import Version

from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.validation.environment.registry import Registry
from buildkit_riscv64.validation.environment.waiting import eventually

from ..bases import BaseImage
from ..cgroups import require
from ..conftest import NewContext
from ..scenario import not_proven
from .docker import Docker, cached, container, unique, volume

#: The output shows whether the step ran again.
CLOCK = "FROM base\nRUN date +%s%N >/when\n"


def logs(client: Docker, name: str) -> str:
    """The log of a container."""
    done = client("logs", name).good()
    return done.stdout + done.stderr


def test_bootstrap(client: Docker, builder: str, version: str) -> None:
    """buildx starts the image as a builder, and tini logs no warning"""
    output = client.buildx("inspect", builder).good().stdout
    assert re.search(r"^Status:\s+running$", output, re.M)
    assert re.search(rf"^Build[Kk]it( version)?:\s+{re.escape(version)}$", output, re.M)
    assert str(Platform.here()) in output
    log = logs(client, container(builder))
    assert "found 1 workers" in log
    assert "tini" not in log.lower()
    state = client.inspect("container", container(builder))
    assert state["HostConfig"]["Init"] is True
    assert state["Image"] == client.inspect("image", client.image)["Id"]


def test_alone(client: Docker) -> None:
    """docker runs the image without buildx: tini reaps orphans, SIGTERM ends the container"""
    with client.running("--privileged") as name:
        inside = ["exec", name]
        workers = [*inside, "buildctl", "debug", "workers"]
        assert eventually(lambda: client(*workers).code == 0)

        def states() -> list[str]:
            """The states of the orphans."""
            output = client(*inside, "sh", "-c", "cat /proc/[0-9]*/stat").stdout
            return re.findall(r"^\d+ \(sleep\) (\w)", output, re.M)

        client(*inside, "sh", "-c", "sleep 3 & exit").good()
        assert eventually(lambda: set(states()) <= {"Z"})
        # tini reaps at once. Each check starts docker, so a slow machine takes longer.
        assert any(not states() for _ in range(20)), "an ended orphan stays a zombie"
        assert "tini" not in logs(client, name).lower()
        client("stop", "--time=60", name).good()
        state = client.inspect("container", name)["State"]
        # Not 137, for SIGKILL. Upstream exits with 1 after SIGTERM.
        assert (state["Running"], state["ExitCode"]) == (False, 1)


def test_load_and_run(
    client: Docker, builder: str, base: BaseImage, new_context: NewContext
) -> None:
    """An image built with --load runs in docker"""
    name = unique()
    context = new_context("FROM base\nARG WHO\nRUN echo hello $WHO >/hello\nCMD [\"cat\", \"/hello\"]\n")  # fmt: skip
    with client.images(name):
        client.build(builder, context, "--load", f"--tag={name}", "--build-arg=WHO=docker", f"--build-context={base.context()}").good()  # fmt: skip
        assert client("run", "--rm", "--network=none", name).good().stdout == "hello docker\n"


def test_push_and_pull(
    client: Docker,
    builder: str,
    base: BaseImage,
    new_context: NewContext,
    engine_registry: Registry,
    tmp_path: Path,
) -> None:
    """A pushed image has the same digest after a pull, and runs"""
    name = f"{engine_registry.host}/pushed:one"
    metadata = tmp_path / "metadata.json"
    context = new_context('FROM base\nRUN echo pushed >/what\nCMD ["cat", "/what"]\n')
    client.build(builder, context, "--push", f"--tag={name}", f"--metadata-file={metadata}", f"--build-context={base.context()}").good()  # fmt: skip
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    by_digest = f"{engine_registry.host}/pushed@{digest}"
    with client.images(name, by_digest):
        client("pull", name).good()
        assert client.inspect("image", name)["RepoDigests"] == [by_digest]
        assert client("run", "--rm", "--network=none", by_digest).good().stdout == "pushed\n"


def test_bake(client: Docker, builder: str, bake_file: Path) -> None:
    """bake builds several targets with variables and inheritance"""
    tag = unique()
    with client.images(f"{tag}-one", f"{tag}-two"):
        client.buildx(
            "bake", f"--builder={builder}", "--progress=plain", "--load", cwd=bake_file,
            env={"GREETING": "good morning", "TAG": tag},
        ).good()  # fmt: skip
        for which, greeting in (("one", "good morning"), ("two", "GOOD MORNING")):
            got = client("run", "--rm", "--network=none", f"{tag}-{which}", "cat", "/which", "/greeting").good()  # fmt: skip
            assert got.stdout == f"{which}\n{greeting}\n"


def test_bake_print(client: Docker, bake_file: Path) -> None:
    """bake --print resolves variables, inheritance and overrides, and builds nothing"""
    plan = client.buildx("bake", "--print", "--set=one.args.GREETING=set", "two", "one", cwd=bake_file).good().json  # fmt: skip
    assert plan["target"]["one"]["args"] == {"GREETING": "set"}
    assert plan["target"]["two"]["args"] == {"GREETING": "FROM THE FILE"}
    assert set(plan["group"]["default"]["targets"]) == {"one", "two"}


def test_imagetools(
    client: Docker, builder: str, new_context: NewContext, engine_registry: Registry
) -> None:
    """imagetools inspects a pushed image, and combines images of two platforms into one index"""
    here = Platform.here()
    other = next(one for one in (Platform.ARM64, Platform.RISCV64) if one is not here)
    context = new_context("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /which\n", **{one.architecture: one for one in (here, other)})  # fmt: skip
    names = {one: f"{engine_registry.host}/tools:{one.architecture}" for one in (here, other)}
    for one, name in names.items():
        client.build(builder, context, f"--platform={one}", "--push", f"--tag={name}").good()
    output = client.buildx("imagetools", "inspect", names[here]).good().stdout
    assert re.search(r"^MediaType:\s+application/vnd\.oci\.image\.manifest", output, re.M)
    both = f"{engine_registry.host}/tools:both"
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


def test_cache_between_builders(
    client: Docker,
    builder: str,
    base: BaseImage,
    new_context: NewContext,
    engine_registry: Registry,
    tmp_path: Path,
) -> None:
    """A builder imports the cache of another builder from a registry and from a directory"""
    context = new_context(CLOCK)
    with_base = f"--build-context={base.context()}"
    places = {
        "registry": f"type=registry,ref={engine_registry.host}/cache:one",
        "local": f"type=local,dest={tmp_path / 'cache'}",
    }

    def when(which: str, *args: str) -> str:
        """The time at which the step ran, in this build or in the one that filled the cache."""
        out = tmp_path / unique()
        client.build(which, context, with_base, f"--output=type=local,dest={out}", *args).good()
        return (out / "when").read_text()

    first = when(builder, *(f"--cache-to={place},mode=max" for place in places.values()))
    with client.builder("--driver-opt=network=host") as another:
        for place in places.values():
            assert when(another, f"--cache-from={place.replace('dest=', 'src=')}") == first
            client.buildx("prune", f"--builder={another}", "--all", "--force").good()


def builds(client: Docker, builder: str, context: Path, base: BaseImage) -> str:
    """How a build gets the result of its step."""
    done = client.build(builder, context, f"--build-context={base.context()}").good()
    return "takes it from the cache" if cached(done, "RUN date") else "runs it"


def test_stop_and_start(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """A stopped builder exits cleanly, and keeps its cache for the next start"""
    context = new_context(CLOCK)
    with client.builder() as name:
        assert builds(client, name, context, base) == "runs it"
        client.buildx("stop", name).good()
        state = client.inspect("container", container(name))["State"]
        # Not 137, for SIGKILL. Upstream exits with 1 after SIGTERM.
        assert (state["Running"], state["ExitCode"]) == (False, 1)
        client.buildx("inspect", "--bootstrap", name).good()
        assert client.inspect("container", container(name))["State"]["Running"]
        assert builds(client, name, context, base) == "takes it from the cache"


def test_remove(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """rm --keep-state keeps a builder's cache; rm alone removes container and volume"""
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


@pytest.mark.may_be_not_proven
def test_driver_options(client: Docker) -> None:
    """--driver-opt sets environment, network and resource limits of the container"""
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


@pytest.mark.may_be_not_proven
def test_default_load(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """--driver-opt default-load loads images into docker without --load"""
    if client.version < Version("0.14"):
        not_proven(f"buildx {client.version} has no default-load; 0.14 has")
    name = unique()
    with client.builder("--driver-opt=default-load=true") as ours, client.images(name):
        client.build(ours, new_context(CLOCK), f"--tag={name}", f"--build-context={base.context()}").good()  # fmt: skip
        assert client.inspect("image", name)


def test_configuration(client: Docker, tmp_path: Path) -> None:
    """The daemon in the container uses the buildkitd.toml passed to buildx"""
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
        assert "level=debug" in logs(client, container(name))


def test_du_and_prune(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """buildx du lists the cache, and prune removes it"""
    with client.builder() as name:
        client.build(name, new_context(CLOCK), f"--build-context={base.context()}").good()
        assert "date +%s%N" in client.buildx("du", f"--builder={name}", "--verbose").good().stdout
        client.buildx("prune", f"--builder={name}", "--all", "--force").good()
        left = client.buildx("du", f"--builder={name}", "--verbose").good().stdout
        assert "date +%s%N" not in left
        assert re.search(r"^Total:\s+0B$", left, re.M)


@pytest.mark.may_be_not_proven
def test_history(client: Docker, base: BaseImage, new_context: NewContext) -> None:
    """buildx history lists completed and failed builds"""
    if client.version < Version("0.19"):
        not_proven(f"buildx {client.version} has no history; 0.19 has")
    with client.builder() as name:
        with_base = f"--build-context={base.context()}"
        client.build(name, new_context(CLOCK), with_base).good()
        client.build(name, new_context("FROM base\nRUN false\n"), with_base).bad("exit code: 1")
        listed = client.buildx("history", "ls", f"--builder={name}", "--format=json").good().stdout
        builds = [json.loads(line) for line in listed.splitlines()]
        assert sorted(one["status"] for one in builds) == ["Completed", "Error"]
