"""Settings of buildkitd.toml and flags, and restrictive defaults."""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.validation.environment.loopback import LOOPBACK, free_port, make_certificates
from buildkit_riscv64.validation.environment.registry import Registry
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon
from .results import ONLY_OUT, Builder, text


def test_entitlements_by_default(builder: Builder, new_context: NewContext) -> None:
    """Insecure entitlements are refused by default, to clients and to Dockerfiles"""
    for entitlement, flag in (("security.insecure", "--security=insecure"), ("network.host", "--network=host")):  # fmt: skip
        context = new_context(f"FROM base\nRUN {flag} true\n")
        builder.build(context).bad(f"{entitlement} is not allowed")
        builder.build(context, f"--allow={entitlement}").bad(
            f"granting entitlement {entitlement} is not allowed by build daemon configuration"
        )


def test_entitlements_allowed(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Allowed insecure entitlements are granted on request; flags replace those in buildkitd.toml"""
    config = 'insecure-entitlements = ["network.host", "security.insecure"]\n'
    daemon = new_daemon(config=config).start()
    builder = Builder(daemon, base, tmp_path)
    status = "grep -E '^(CapEff|Seccomp):' /proc/self/status | cut -f2"
    context = new_context(
        "FROM base AS work\nRUN mkdir /out\n"
        f"RUN {status} >/out/default && ! mount -t tmpfs tmpfs /tmp 2>/dev/null\n"
        f"RUN --security=insecure {status} >/out/insecure && mount -t tmpfs tmpfs /tmp\n"
        "RUN --network=host ls /sys/class/net >/out/host\n" + ONLY_OUT
    )
    asked = [f"--allow={one}" for one in ("network.host", "security.insecure")]
    builder.build(context, asked[0]).bad("security.insecure is not allowed")
    reported = text(builder.directory(context, *asked))
    (capabilities, seccomp), (more, none) = (reported[it].split() for it in ("default", "insecure"))
    assert int(capabilities, 16) < int(more, 16)
    assert int(capabilities, 16) & ~int(more, 16) == 0
    assert (seccomp, none) == ("2", "0")
    assert set(reported["host"].split()) == {it.name for it in Path("/sys/class/net").iterdir()}
    daemon.stop()
    daemon.flags = ["--allow-insecure-entitlement=network.host"]
    daemon.start()
    host = new_context("FROM base\nRUN --network=host true\n")
    builder.build(host, *asked[:1]).good()
    builder.build(host, *asked).bad(
        "granting entitlement security.insecure is not allowed by build daemon configuration"
    )


def test_step_confinement(builder: Builder, new_context: NewContext) -> None:
    """By default a step can neither mount, nor change kernel settings, nor access devices"""
    builder.build(
        new_context(
            "FROM base\n"
            "RUN ! mount -t tmpfs tmpfs /tmp\n"
            "RUN ! echo 1 >/proc/sys/vm/drop_caches\n"
            "RUN ! echo 1 >/sys/kernel/profiling\n"
            "RUN ! ls /dev/kmsg /dev/mem /dev/sda /dev/vda\n"
            # Masked, so empty; some kernels have none.
            "RUN test $(dd if=/proc/kcore bs=1 count=1 2>/dev/null | wc -c) = 0\n"
            # Docker's default capabilities, and no others.
            "RUN test $(grep ^CapEff: /proc/self/status | cut -f2) = 00000000a80425fb\n"
        )
    ).good()


def test_toml(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """buildkitd.toml sets log format, labels, platforms, DNS and parallelism"""
    config = f"""
        [log]
          format = "json"
          level = "debug"
        [dns]
          nameservers = ["192.0.2.53"]
          options = ["ndots:3"]
          searchDomains = ["example.org"]
        [worker.oci]
          platforms = ["linux/{Architecture.here()}", "linux/s390x"]
          max-parallelism = 1
          [worker.oci.labels]
            "org.example.label" = "of mine"
    """
    daemon = new_daemon(config=config).start()
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert worker["labels"]["org.example.label"] == "of mine"
    # BuildKit also lists the native platforms of the machine.
    named = [it["architecture"] for it in worker["platforms"]]
    assert named[:2] == [str(Architecture.here()), "s390x"]
    step = "mkdir /cache/busy && sleep 1 && rmdir /cache/busy"
    mount = "--mount=type=cache,target=/cache,sharing=shared"
    context = new_context(
        f"FROM base AS a\nENV IT=a\nRUN {mount} {step} && cat /etc/resolv.conf >/it\n"
        f"FROM base AS b\nENV IT=b\nRUN {mount} {step} && cat /etc/resolv.conf >/it\n"
        "FROM scratch\nCOPY --from=a /it /a\nCOPY --from=b /it /b\n"
    )
    reported = text(Builder(daemon, base, tmp_path).directory(context))
    for one in reported.values():
        assert {"nameserver 192.0.2.53", "options ndots:3", "search example.org"} <= set(one.splitlines())  # fmt: skip
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert {"debug", "info"} <= {line["level"] for line in lines}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[worker.oci\n", ["failed to parse config"]),
        ("[worker.oci]\n  max-parallelism = 'many'\n", ["failed to parse config", "int"]),
        ('[log]\n  format = "xml"\n', ['unsupported log type "xml"']),
        ('[log]\n  level = "loud"\n', ["unsupported log level", "loud"]),
        ("[system]\n  maxRegistryConcurrency = 0\n", ["maxRegistryConcurrency must be greater than zero"]),
    ],
    ids=["syntax", "type", "log-format", "log-level", "concurrency"],
)  # fmt: skip
def test_bad_toml(new_daemon: NewDaemon, config: str, words: list[str]) -> None:
    """The daemon refuses an invalid buildkitd.toml and reports the error"""
    daemon = new_daemon(config=config).start(wait=False)
    assert eventually(lambda: not daemon.running), daemon.log
    assert daemon.stop() == 1
    for word in words:
        assert word in daemon.log
    assert not re.search(r"^(panic|goroutine) ", daemon.log, re.MULTILINE)


def _listeners(daemon: Daemon) -> list[str]:
    """The TCP addresses, in hexadecimal, at which a daemon listens."""
    inodes = set()
    for handle in Path(f"/proc/{daemon.pid}/fd").iterdir():
        if handle.is_symlink() and (match := re.match(r"socket:\[(\d+)\]", str(handle.readlink()))):
            inodes.add(match[1])
    listening = "0A"
    return [
        words[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{daemon.pid}/net/{table}").read_text().splitlines()[1:]
        if (words := line.split())[3] == listening and words[9] in inodes
    ]


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=BOUND) as answer:
        assert answer.status == 200
        return str(answer.read().decode(errors="replace"))


def test_debug_endpoints(
    daemon: Daemon, new_daemon: NewDaemon, base: BaseImage, new_context: NewContext
) -> None:
    """Metrics and debug endpoints listen at the configured address; by default nothing listens"""
    assert _listeners(daemon) == []
    port = free_port()
    flags, config = (
        [f"--debugaddr={LOOPBACK}:{port}"],
        f'[grpc]\n  debugAddress = "{LOOPBACK}:{port}"\n',
    )
    flagged = new_daemon(flags=flags).start()
    flagged.build(new_context("FROM base\nRUN true\n"), *base.flags()).good()
    place = f"http://{LOOPBACK}:{port}"
    metrics = _get(f"{place}/metrics")
    assert re.search(r"^go_goroutines \d+$", metrics, re.MULTILINE)
    assert re.search(r"^go_info\{version=\"go1\.\d", metrics, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes [1-9]", metrics, re.MULTILINE)
    assert "goroutine profile: total" in _get(f"{place}/debug/pprof/goroutine?debug=1")
    assert "memstats" in json.loads(_get(f"{place}/debug/vars"))
    assert _listeners(flagged) == [f"0100007F:{port:04X}"]
    flagged.stop()
    flagged.flags = []
    flagged.configure(config)
    flagged.start()
    assert "go_goroutines" in _get(f"{place}/metrics")
    assert _listeners(flagged) == [f"0100007F:{port:04X}"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OpenTelemetry collector over HTTP: its address, and the received requests."""
    received: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(self.path.encode() + b"\n" + body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}", received
        finally:
            server.shutdown()


def test_traces(
    new_daemon: NewDaemon,
    base: BaseImage,
    new_context: NewContext,
    collector: tuple[str, list[bytes]],
) -> None:
    """Traces of a build are sent to an OpenTelemetry collector"""
    address, received = collector
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    daemon = new_daemon(wrap=["env", *(f"{name}={value}" for name, value in settings.items())])
    daemon.start()
    daemon.build(new_context("FROM base\nRUN echo traced\n"), *base.flags()).good()
    daemon.stop()
    traces = b"".join(it for it in received if it.startswith(b"/v1/traces\n"))
    for word in (b"buildkitd", b"moby.buildkit.v1.Control/Solve", b"RUN echo traced"):
        assert word in traces, word


def test_registry_mirror(
    new_daemon: NewDaemon,
    base: BaseImage,
    new_context: NewContext,
    local_registry: Registry,
    tmp_path: Path,
) -> None:
    """Images of a registry are pulled from the mirror in buildkitd.toml"""
    mirrored = "images.example.org"
    config = (
        f'[registry."{mirrored}"]\n  mirrors = ["{local_registry.host}"]\n'
        f'[registry."{local_registry.host}"]\n  http = true\n'
    )
    builder = Builder(new_daemon(config=config).start(), base, tmp_path)
    builder.build(
        new_context("FROM scratch\nCOPY file /\n", file="mirrored"),
        f"--output=type=image,name={local_registry.host}/some/image,push=true",
    ).good()
    context = new_context(f"FROM {mirrored}/some/image\n")
    assert text(builder.directory(context)) == {"file": "mirrored"}


def test_registry_authority(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """A registry with a private certificate authority is refused, unless buildkitd.toml names the authority"""
    directory = make_certificates(tmp_path / "certs")
    place = tmp_path / "registry"
    place.mkdir()
    registry = Registry(place)
    config = json.loads((place / "config.yml").read_text())
    server = directory / "server"
    config["http"]["tls"] = {
        "certificate": str(server / "cert.pem"),
        "key": str(server / "key.pem"),
    }
    (place / "config.yml").write_text(json.dumps(config))
    registry.start()
    try:
        name = f"localhost:{registry.port}"
        # By default, buildkitd uses plain HTTP for registries on the loopback.
        settings = f'[registry."{name}"]\n  http = false\n'
        builder = Builder(new_daemon(config=settings).start(), base, tmp_path)
        context = new_context("FROM scratch\nCOPY file /\n", file="it")
        push = f"--output=type=image,name={name}/image,push=true"
        builder.build(context, push).bad("certificate signed by unknown authority")
        builder.daemon.stop()
        builder.daemon.configure(f'{settings}  ca = ["{directory / "ca.pem"}"]\n')
        builder.daemon.start()
        builder.build(context, push).good()
        pulled = new_context(f"FROM {name}/image\n")
        assert text(builder.directory(pulled, "--no-cache")) == {"file": "it"}
    finally:
        registry.kill()


def test_history(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext) -> None:
    """The history lists builds, and can be pruned"""
    daemon = new_daemon().start()
    daemon.build(new_context("FROM base\nRUN true\n"), *base.flags()).good()
    daemon.build(new_context("FROM base\nRUN exit 3\n"), *base.flags()).bad()
    listed = daemon.buildctl("debug", "histories", "--format={{json .}}").good().stdout
    records = [json.loads(line) for line in listed.splitlines()]
    assert len(records) == 2
    daemon.buildctl("prune-histories").good()
    left = daemon.buildctl("debug", "histories", "--format={{json .}}").good().stdout
    assert not left.strip()
