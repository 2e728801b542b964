"""`invoke create-certs` with the real OpenSSL, and a real buildkitd with the certificates."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import process
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .miniature import Done, Project, refused, remove, succeeded

pytestmark = [pytest.mark.integration, pytest.mark.needs("openssl")]

NAMES = "localhost,127.0.0.1,::1,board.lan,*.example.org"
PAIRS = {"ca.pem": "ca-key.pem", "server/cert.pem": "server/key.pem", "client/cert.pem": "client/key.pem"}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A copy of this checkout."""
    directory = tmp_path_factory.mktemp("certs")
    copy_checkout(directory / "checkout")
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    yield Project(directory / "checkout", {**env, "XDG_CACHE_HOME": str(directory / "cache")})
    remove(directory)


Certs = Callable[..., Done]


@pytest.fixture(scope="module")
def certs(here: Project) -> Certs:
    """Run `invoke create-certs --output …`."""

    def run(directory: Path, *args: str, prefix: tuple[str, ...] = (), **env: str) -> Done:
        return here.invoke(
            "create-certs", "--output", str(directory), *args, prefix=prefix, env=env
        )

    return run


@pytest.fixture
def created(certs: Certs, tmp_path: Path) -> Path:
    """A directory with only the certificates."""
    directory = tmp_path / "place" / "certs"
    succeeded(certs(directory, "--names", NAMES))
    return directory


def openssl(*args: str | Path) -> str:
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def extension(certificate: Path, name: str) -> tuple[bool, str]:
    """Whether an extension is critical, and its value."""
    shown = openssl("x509", "-in", certificate, "-noout", "-text")
    found = re.search(rf"X509v3 {name}: (critical)?\s*\n +(.+)", shown)
    assert found, f"{certificate} has no {name}"
    return bool(found[1]), found[2].strip()


def good_for(purpose: str, certificate: Path, ca: Path) -> bool:
    """OpenSSL's strict verdict."""
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore",
         "-CAfile", ca, certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def assert_whole(directory: Path) -> None:
    """Each certificate matches its key and comes from the CA."""
    for certificate, key in PAIRS.items():
        public = openssl("x509", "-in", directory / certificate, "-noout", "-pubkey")
        assert openssl("pkey", "-in", directory / key, "-pubout") == public
    for side in ("server", "client"):
        assert good_for(f"ssl{side}", directory / side / "cert.pem", directory / "ca.pem")
        assert good_for(f"ssl{side}", directory / side / "cert.pem", directory / side / "ca.pem")


def contents(directory: Path) -> dict[str, str]:
    """Every file in the directory and its parent."""
    place = directory.parent
    return {str(p.relative_to(place)): p.read_text() for p in place.rglob("*") if p.is_file()}


# Creation.


def test_ca(created: Path) -> None:
    ca = created / "ca.pem"
    assert extension(ca, "Basic Constraints") == (True, "CA:TRUE, pathlen:0")
    assert extension(ca, "Key Usage") == (True, "Certificate Sign, CRL Sign")


def test_both_sides(created: Path) -> None:
    assert_whole(created)
    authority = extension(created / "ca.pem", "Subject Key Identifier")[1]
    serials = set()
    for side, usage, other in (
        ("server", "TLS Web Server Authentication", "sslclient"),
        ("client", "TLS Web Client Authentication", "sslserver"),
    ):
        certificate = created / side / "cert.pem"
        assert extension(certificate, "Basic Constraints") == (True, "CA:FALSE")
        assert extension(certificate, "Key Usage") == (True, "Digital Signature")
        assert extension(certificate, "Extended Key Usage") == (False, usage)
        assert not good_for(other, certificate, created / "ca.pem")
        # OpenSSL 1.1 and 3 format it differently.
        identifier = extension(certificate, "Authority Key Identifier")[1]
        assert identifier.removeprefix("keyid:") == authority
        assert "NIST CURVE: P-256" in openssl("x509", "-in", certificate, "-noout", "-text")
        serial = openssl("x509", "-in", certificate, "-noout", "-serial").partition("=")[2]
        assert 100 < int(serial, 16).bit_length() < 160
        serials.add(serial)
    assert len(serials) == 2
    assert extension(created / "server" / "cert.pem", "Subject Alternative Name")[1] == (
        "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:board.lan,"
        " DNS:*.example.org"
    )


def test_files_are_private(certs: Certs, tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    careless = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    for _ in range(2):
        succeeded(certs(directory, prefix=careless))
        modes = {
            path: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.rglob("*"))
        }
        assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def test_in_the_checkout(here: Project) -> None:
    done = here.invoke("create-certs")
    try:
        assert "localhost, 127.0.0.1, ::1" in succeeded(done).stderr
        assert "PRIVATE" not in done.stderr
        assert_whole(here.root / "certs")
    finally:
        shutil.rmtree(here.root / "certs")


def test_json(certs: Certs, created: Path) -> None:
    shown = succeeded(certs(created, "--days=800", "--json")).json
    assert shown["folder"] == str(created)
    assert shown["names"] == NAMES.split(",")
    assert shown["ca"]["new"] is False
    for part, name in (("ca", "ca.pem"), ("server", "server/cert.pem"), ("client", "client/cert.pem")):  # fmt: skip
        output = openssl("x509", "-in", created / name, "-noout", "-fingerprint", "-sha256", "-enddate",
                       "-dateopt", "iso_8601")  # fmt: skip
        assert f"Fingerprint={shown[part]['sha256']}\n" in output
        assert f"notAfter={shown[part]['until'].replace('T', ' ')}\n" in output


def test_dry(certs: Certs, here: Project, created: Path) -> None:
    before = contents(created)
    for directory, words in ((created, "same CA"), (created.parent / "more", "new CA")):
        done = here.invoke("--dry", "create-certs", "--output", str(directory), "--json")
        assert words in succeeded(done).stderr
        assert done.json == {}
    assert contents(created) == before


# Renewal.


def test_renewal(certs: Certs, created: Path) -> None:
    before = contents(created)
    # The daemon and other clients still use the former files.
    old = shutil.copytree(created, created.parent.parent / "old")
    succeeded(certs(created))
    assert_whole(created)
    after = contents(created)
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert same == {f"certs/{p}ca.pem" for p in ("", "server/", "client/")} | {"certs/ca-key.pem"}
    assert good_for("sslclient", created / "client" / "cert.pem", old / "server" / "ca.pem")
    assert good_for("sslserver", old / "server" / "cert.pem", created / "client" / "ca.pem")
    names = [
        extension(f / "server" / "cert.pem", "Subject Alternative Name") for f in (old, created)
    ]
    assert names[0] == names[1]


def test_new_ca(certs: Certs, created: Path) -> None:
    old = shutil.copytree(created, created.parent.parent / "old")
    assert "CA: new" in succeeded(certs(created, "--new-ca")).stderr
    assert_whole(created)
    for side in ("server", "client"):
        assert not good_for(f"ssl{side}", created / side / "cert.pem", old / "ca.pem")


# Failures.


def encrypt(directory: Path) -> None:
    key = directory / "ca-key.pem"
    openssl("ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", f"{key}.new")
    Path(f"{key}.new").replace(key)


def short_lived(directory: Path) -> None:
    openssl("req", "-x509", "-new", "-key", directory / "ca-key.pem", "-out", directory / "ca.pem",
            "-subj", "/CN=short", "-days", "3")  # fmt: skip


def no_ca(directory: Path) -> None:
    openssl("req", "-x509", "-new", "-key", directory / "ca-key.pem", "-out", directory / "ca.pem",
            "-subj", "/CN=leaf", "-days", "90", "-config", "/dev/null",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda directory: (directory / "ca-key.pem").unlink(), "ca-key.pem is missing"),
        (lambda directory: shutil.copy(directory / "client" / "key.pem", directory / "ca-key.pem"),
         "ca-key.pem is not the key"),
        (lambda directory: (directory / "ca.pem").write_text("nonsense"), "ca.pem is not a certificate"),
        (encrypt, "ca-key.pem is not the key"),
        (short_lived, "--days 30"),
        (no_ca, "invalid CA certificate"),
    ],
)  # fmt: skip
def test_unusable_ca(
    certs: Certs, created: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(created)
    before = contents(created)
    done = certs(created)
    refused(done, 7, words)
    assert "--new-ca" in done.stderr
    assert contents(created) == before
    succeeded(certs(created, "--new-ca"))
    assert_whole(created)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--names", "a b"], "'a b'"), (["--names", "a\nsubjectAltName=DNS:b"], "--names"),
        (["--names", "localhost,DNS:b"], "'DNS:b'"), (["--days", "826"], "--days 826"),
    ],
)  # fmt: skip
def test_options(certs: Certs, tmp_path: Path, args: list[str], words: str) -> None:
    refused(certs(tmp_path / "certs", *args), 2, words)
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_kept(certs: Certs, created: Path) -> None:
    (created / "server" / "notes.txt").write_text("foreign")
    before = contents(created)
    refused(certs(created, "--new-ca"), 2, "notes.txt")
    assert contents(created) == before


def test_without_openssl(certs: Certs, created: Path) -> None:
    before = contents(created)
    refused(certs(created, PATH="/nonexistent"), 3, "openssl")
    assert contents(created) == before


@pytest.mark.needs("mounts")
@pytest.mark.parametrize("args", [(), ("--new-ca",)])
def test_full_disk(certs: Certs, created: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    saved = shutil.copytree(created, tmp_path / "saved")
    place = created.parent
    # The mount ends with the command, so the command compares the files itself.
    shell = f"""
        mount -t tmpfs -o size=256k tmpfs {place}
        cp -a {saved} {created}
        cat /dev/zero >{place}/full 2>/dev/null || true
        code=0; "$@" || code=$?
        rm {place}/full
        diff -r {saved} {created} >&2
        test "$(ls -A {place})" = certs
        exit $code"""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    prefix = ("unshare", *as_root, "--mount", "sh", "-euc", shell, "sh")
    refused(certs(created, *args, prefix=prefix), 9, "no space left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("command", ["req", "verify"])
def test_interrupted(
    here: Project, certs: Certs, created: Path, tmp_path: Path, number: signal.Signals, command: str
) -> None:
    real = shutil.which("openssl")
    reached = tmp_path / "reached"
    hangs = f'[ "$1" != {command} ] || {{ touch {reached}; exec sleep 10000; }}\nexec {real} "$@"'
    script(tmp_path / "bin" / "openssl", hangs)
    before = contents(created)
    slow = Project(here.root, {**here.env, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    with slow.started("create-certs", "--output", str(created), "--new-ca") as run:
        assert eventually(lambda: reached.exists() or run.process.poll() is not None)
        if number is signal.SIGKILL:
            os.killpg(run.process.pid, number)
            assert run.wait().code == -number
        else:
            refused(run.end(number), 130, "interrupted")
            assert contents(created) == before
    assert {name: text for name, text in contents(created).items() if name.startswith("certs/")} == before  # fmt: skip
    succeeded(certs(created))
    assert {path.name for path in created.parent.iterdir()} == {"certs"}
    assert_whole(created)


# The daemon.


@dataclass(frozen=True)
class Served:
    """A daemon with our certificates.

    Args:
        directory: the certificates.
        others: certificates of another CA.
        port: of the daemon.
        buildctl: the client.
    """

    directory: Path
    others: Path
    port: int
    buildctl: Path

    def ask(self, *flags: str | Path, command: tuple[str, ...] = ("debug", "workers")) -> Done:
        done = subprocess.run(
            [self.buildctl, "--addr", f"tcp://127.0.0.1:{self.port}", *flags, *command],
            capture_output=True, text=True, timeout=BOUND, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def tls(self, ca: Path, side: Path) -> tuple[str | Path, ...]:
        return ("--tlscacert", ca, "--tlscert", side / "cert.pem", "--tlskey", side / "key.pem")

    def answers(self, *flags: str | Path) -> bool:
        done = self.ask(*(flags or ("--tlsdir", self.directory / "client")))
        return done.code == 0 and "PLATFORMS" in done.stdout


@pytest.fixture(scope="module")
@needs("namespaces", "loopback")
def served(
    certs: Certs, binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    for name in ("certs", "others"):
        succeeded(certs(place / name, "--names", NAMES))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = Served(place / "certs", place / "others", port, binaries / "buildctl")
    # Ordinary users run it in a user namespace.
    command: process.Arguments = [
        *process.namespaced(), binaries / "buildkitd", "--root", place / "state",
        "--addr", f"tcp://127.0.0.1:{port}",
        "--tlscacert", place / "certs" / "server" / "ca.pem",
        "--tlscert", place / "certs" / "server" / "cert.pem",
        "--tlskey", place / "certs" / "server" / "key.pem",
        "--containerd-worker=false", "--oci-worker-net=host",
        *([] if os.geteuid() == 0 else ["--rootless"]),
    ]  # fmt: skip
    with (
        (place / "log").open("wb") as log,
        process.child_process(command, stdout=log.fileno(), stderr=log.fileno()) as child,
    ):
        eventually(lambda: child.poll() is not None or daemon.answers())
        assert daemon.answers(), (place / "log").read_text()
        yield daemon


def test_client_builds(served: Served, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /copied\n")
    local = [f"--local={name}={tmp_path}" for name in ("context", "dockerfile")]
    build = ("build", "--frontend=dockerfile.v0", *local, f"--output=type=local,dest={tmp_path}")
    done = served.ask("--tlsdir", served.directory / "client", command=build)
    assert done.code == 0, done
    assert (tmp_path / "copied").exists()


@pytest.mark.parametrize("name", ["localhost", "board.lan", "any.example.org"])
def test_each_name(served: Served, name: str) -> None:
    assert served.answers("--tlsdir", served.directory / "client", "--tlsservername", name)


@pytest.mark.parametrize("name", ["other.lan", "a.b.example.org", "example.org"])
def test_other_name(served: Served, name: str) -> None:
    done = served.ask("--tlsdir", served.directory / "client", "--tlsservername", name)
    assert done.code == 1
    assert "certificate is valid for localhost" in done.stderr


def assert_refused(served: Served, *flags: str | Path) -> None:
    done = served.ask(*flags)
    assert done.code == 1, done
    assert "Unavailable" in done.stderr, done
    assert served.answers()


def test_client_without_a_certificate(served: Served) -> None:
    assert_refused(served)
    assert_refused(served, "--tlscacert", served.directory / "ca.pem")


def test_client_of_another_ca(served: Served) -> None:
    assert_refused(served, *served.tls(served.directory / "ca.pem", served.others / "client"))


def test_server_certificate_is_not_a_client_certificate(served: Served) -> None:
    assert_refused(served, "--tlsdir", served.directory / "server")


def test_impostor(served: Served) -> None:
    done = served.ask("--tlsdir", served.others / "client")
    assert "unknown authority" in done.stderr


@pytest.mark.parametrize("year", [2019, 2049])
def test_expired_client(served: Served, tmp_path: Path, year: int) -> None:
    """With chosen dates, for which OpenSSL before 3.4 needs `openssl ca`."""
    (tmp_path / "index.txt").touch()
    config = tmp_path / "ca.cnf"
    config.write_text(
        "[ca]\ndefault_ca = ours\n[ours]\n"
        f"database = {tmp_path / 'index.txt'}\nnew_certs_dir = {tmp_path}\n"
        "rand_serial = yes\ndefault_md = sha256\npolicy = any\nx509_extensions = client\n"
        "[any]\ncommonName = supplied\n[client]\nextendedKeyUsage = clientAuth\n"
    )
    openssl("req", "-new", "-key", served.directory / "client" / "key.pem", "-subj", "/CN=client",
            "-out", tmp_path / "request.pem")  # fmt: skip
    shutil.copy(served.directory / "client" / "key.pem", tmp_path)
    openssl("ca", "-batch", "-config", config, "-in", tmp_path / "request.pem",
            "-out", tmp_path / "cert.pem", "-notext", "-cert", served.directory / "ca.pem",
            "-keyfile", served.directory / "ca-key.pem",
            "-startdate", "20180101000000Z", "-enddate", f"{year}0101000000Z")  # fmt: skip
    flags = served.tls(served.directory / "ca.pem", tmp_path)
    if year > 2040:
        assert served.answers(*flags)
    else:
        assert_refused(served, *flags)


def test_renewal_before_a_restart(certs: Certs, served: Served, tmp_path: Path) -> None:
    renewed = shutil.copytree(served.directory, tmp_path / "certs")
    succeeded(certs(renewed))
    assert served.answers("--tlsdir", renewed / "client")
    succeeded(certs(renewed, "--new-ca"))
    assert_refused(served, "--tlsdir", renewed / "client")
