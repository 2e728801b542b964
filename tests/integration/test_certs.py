"""`invoke certs` with the real OpenSSL, and a real buildkitd that is served with what it makes."""

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

from buildkit_riscv64 import process

from ..processes import eventually
from .miniature import Done, Project, copy_checkout, refused, remove, script, succeeded

pytestmark = pytest.mark.integration

NAMES = "localhost,127.0.0.1,::1,board.lan,*.example.org"
PAIRS = {"ca.pem": "ca-key.pem", "server/cert.pem": "server/key.pem", "client/cert.pem": "client/key.pem"}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A copy of this checkout."""
    folder = tmp_path_factory.mktemp("certs")
    copy_checkout(folder / "checkout")
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    yield Project(folder / "checkout", {**env, "XDG_CACHE_HOME": str(folder / "cache")})
    remove(folder)


Certs = Callable[..., Done]


@pytest.fixture(scope="module")
def certs(here: Project) -> Certs:
    """Types `invoke certs --output …`."""

    def run(folder: Path, *args: str, prefix: tuple[str, ...] = (), **env: str) -> Done:
        return here.invoke("certs", "--output", str(folder), *args, prefix=prefix, env=env)

    return run


@pytest.fixture
def made(certs: Certs, tmp_path: Path) -> Path:
    """Certificates, and nothing beside them."""
    folder = tmp_path / "place" / "certs"
    succeeded(certs(folder, "--names", NAMES))
    return folder


def openssl(*args: str | Path) -> str:
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


def extension(certificate: Path, name: str) -> tuple[bool, str]:
    """Whether it is critical, and what it says."""
    shown = openssl("x509", "-in", certificate, "-noout", "-text")
    found = re.search(rf"X509v3 {name}: (critical)?\s*\n +(.+)", shown)
    assert found, f"{certificate} has no {name}"
    return bool(found[1]), found[2].strip()


def good_for(purpose: str, certificate: Path, ca: Path) -> bool:
    """What OpenSSL thinks of it at its strictest."""
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore",
         "-CAfile", ca, certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def assert_whole(folder: Path) -> None:
    """Each certificate has its key beside it, and comes from the authority."""
    for certificate, key in PAIRS.items():
        public = openssl("x509", "-in", folder / certificate, "-noout", "-pubkey")
        assert openssl("pkey", "-in", folder / key, "-pubout") == public
    for side in ("server", "client"):
        assert good_for(f"ssl{side}", folder / side / "cert.pem", folder / "ca.pem")
        assert good_for(f"ssl{side}", folder / side / "cert.pem", folder / side / "ca.pem")


def contents(folder: Path) -> dict[str, str]:
    """Every file there and beside it."""
    place = folder.parent
    return {str(p.relative_to(place)): p.read_text() for p in place.rglob("*") if p.is_file()}


# What is made.


def test_the_authority(made: Path) -> None:
    ca = made / "ca.pem"
    assert extension(ca, "Basic Constraints") == (True, "CA:TRUE, pathlen:0")
    assert extension(ca, "Key Usage") == (True, "Certificate Sign, CRL Sign")


def test_both_sides(made: Path) -> None:
    assert_whole(made)
    authority = extension(made / "ca.pem", "Subject Key Identifier")[1]
    serials = set()
    for side, usage, other in (
        ("server", "TLS Web Server Authentication", "sslclient"),
        ("client", "TLS Web Client Authentication", "sslserver"),
    ):
        certificate = made / side / "cert.pem"
        assert extension(certificate, "Basic Constraints") == (True, "CA:FALSE")
        assert extension(certificate, "Key Usage") == (True, "Digital Signature")
        assert extension(certificate, "Extended Key Usage") == (False, usage)
        assert not good_for(other, certificate, made / "ca.pem")
        # OpenSSL 1.1 and 3 write it in two ways.
        identifier = extension(certificate, "Authority Key Identifier")[1]
        assert identifier.removeprefix("keyid:") == authority
        assert "NIST CURVE: P-256" in openssl("x509", "-in", certificate, "-noout", "-text")
        serial = openssl("x509", "-in", certificate, "-noout", "-serial").partition("=")[2]
        assert 100 < int(serial, 16).bit_length() < 160
        serials.add(serial)
    assert len(serials) == 2
    assert extension(made / "server" / "cert.pem", "Subject Alternative Name")[1] == (
        "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:board.lan,"
        " DNS:*.example.org"
    )


def test_nobody_else_can_read_it(certs: Certs, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    careless = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    for _ in range(2):
        succeeded(certs(folder, prefix=careless))
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
        assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def test_in_the_checkout(here: Project) -> None:
    done = here.invoke("certs")
    try:
        assert "certificates in certs/ for localhost, 127.0.0.1, ::1" in succeeded(done).stderr
        assert "PRIVATE" not in done.stderr
        assert_whole(here.root / "certs")
    finally:
        shutil.rmtree(here.root / "certs")


def test_json(certs: Certs, made: Path) -> None:
    shown = succeeded(certs(made, "--days=800", "--json")).json
    assert shown["folder"] == str(made)
    assert shown["names"] == NAMES.split(",")
    assert shown["ca"]["new"] is False
    for part, name in (("ca", "ca.pem"), ("server", "server/cert.pem"), ("client", "client/cert.pem")):  # fmt: skip
        said = openssl("x509", "-in", made / name, "-noout", "-fingerprint", "-sha256", "-enddate",
                       "-dateopt", "iso_8601")  # fmt: skip
        assert f"Fingerprint={shown[part]['sha256']}\n" in said
        assert f"notAfter={shown[part]['until'].replace('T', ' ')}\n" in said


def test_dry(certs: Certs, here: Project, made: Path) -> None:
    before = contents(made)
    for folder, words in ((made, "with the same CA"), (made.parent / "more", "with a new CA")):
        done = here.invoke("--dry", "certs", "--output", str(folder), "--json")
        assert words in succeeded(done).stderr
        assert done.stdout == ""
    assert contents(made) == before


# Again.


def test_renewal(certs: Certs, made: Path) -> None:
    before = contents(made)
    # Nobody else has the new client yet, and the daemon has not been restarted.
    old = shutil.copytree(made, made.parent.parent / "old")
    succeeded(certs(made))
    assert_whole(made)
    after = contents(made)
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert same == {f"certs/{p}ca.pem" for p in ("", "server/", "client/")} | {"certs/ca-key.pem"}
    assert good_for("sslclient", made / "client" / "cert.pem", old / "server" / "ca.pem")
    assert good_for("sslserver", old / "server" / "cert.pem", made / "client" / "ca.pem")
    names = [extension(f / "server" / "cert.pem", "Subject Alternative Name") for f in (old, made)]
    assert names[0] == names[1]


def test_a_new_authority(certs: Certs, made: Path) -> None:
    old = shutil.copytree(made, made.parent.parent / "old")
    assert "CA: new" in succeeded(certs(made, "--new-ca")).stderr
    assert_whole(made)
    for side in ("server", "client"):
        assert not good_for(f"ssl{side}", made / side / "cert.pem", old / "ca.pem")


# What goes wrong.


def encrypt(folder: Path) -> None:
    key = folder / "ca-key.pem"
    openssl("ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", f"{key}.new")
    Path(f"{key}.new").replace(key)


def short_lived(folder: Path) -> None:
    openssl("req", "-x509", "-new", "-key", folder / "ca-key.pem", "-out", folder / "ca.pem",
            "-subj", "/CN=short", "-days", "3")  # fmt: skip


def no_authority(folder: Path) -> None:
    openssl("req", "-x509", "-new", "-key", folder / "ca-key.pem", "-out", folder / "ca.pem",
            "-subj", "/CN=leaf", "-days", "90", "-config", "/dev/null",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "ca-key.pem").unlink(), "ca-key.pem is not there"),
        (lambda folder: shutil.copy(folder / "client" / "key.pem", folder / "ca-key.pem"),
         "is not the key of"),
        (lambda folder: (folder / "ca.pem").write_text("nonsense"), "ca.pem is no certificate"),
        (encrypt, "is not the key of"),
        (short_lived, "too early for --days 30"),
        (no_authority, "nobody would accept what this CA signs: invalid CA certificate"),
    ],
)  # fmt: skip
def test_an_authority_that_cannot_be_used(
    certs: Certs, made: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(made)
    before = contents(made)
    done = certs(made)
    refused(done, 7, words)
    assert "--new-ca" in done.stderr
    assert contents(made) == before
    succeeded(certs(made, "--new-ca"))
    assert_whole(made)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--names", "a b"], "'a b'"), (["--names", "a\nsubjectAltName=DNS:b"], "neither"),
        (["--names", "localhost,DNS:b"], "'DNS:b'"), (["--days", "826"], "--days 826"),
    ],
)  # fmt: skip
def test_options(certs: Certs, tmp_path: Path, args: list[str], words: str) -> None:
    refused(certs(tmp_path / "certs", *args), 2, words)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_stays(certs: Certs, made: Path) -> None:
    (made / "server" / "notes.txt").write_text("theirs")
    before = contents(made)
    refused(certs(made, "--new-ca"), 2, "notes.txt")
    assert contents(made) == before


def test_without_openssl(certs: Certs, made: Path) -> None:
    before = contents(made)
    refused(certs(made, PATH="/nonexistent"), 3, "openssl")
    assert contents(made) == before


@pytest.mark.parametrize("args", [(), ("--new-ca",)])
def test_a_full_disk(certs: Certs, made: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    saved = shutil.copytree(made, tmp_path / "saved")
    place = made.parent
    # What is mounted is gone with the command, so it is looked at before it ends.
    shell = f"""
        mount -t tmpfs -o size=256k tmpfs {place}
        cp -a {saved} {made}
        cat /dev/zero >{place}/full 2>/dev/null || true
        code=0; "$@" || code=$?
        rm {place}/full
        diff -r {saved} {made} >&2
        test "$(ls -A {place})" = certs
        exit $code"""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    prefix = ("unshare", *as_root, "--mount", "sh", "-euc", shell, "sh")
    refused(certs(made, *args, prefix=prefix), 9, "no space left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("command", ["req", "verify"])
def test_interrupted(
    here: Project, certs: Certs, made: Path, tmp_path: Path, number: signal.Signals, command: str
) -> None:
    real = shutil.which("openssl")
    reached = tmp_path / "reached"
    hangs = f'[ "$1" != {command} ] || {{ touch {reached}; exec sleep 60; }}\nexec {real} "$@"'
    script(tmp_path / "bin" / "openssl", hangs)
    before = contents(made)
    slow = Project(here.root, {**here.env, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    with slow.started("certs", "--output", str(made), "--new-ca") as run:
        assert eventually(lambda: reached.exists() or run.process.poll() is not None)
        if number is signal.SIGKILL:
            os.killpg(run.process.pid, number)
            assert run.wait().code == -number
        else:
            refused(run.end(number), 130, "interrupted")
            assert contents(made) == before
    assert {name: text for name, text in contents(made).items() if name.startswith("certs/")} == before  # fmt: skip
    succeeded(certs(made))
    assert {path.name for path in made.parent.iterdir()} == {"certs"}
    assert_whole(made)


# A daemon.


@dataclass(frozen=True)
class Served:
    """A daemon that serves with our certificates.

    Args:
        folder: the certificates.
        others: somebody else's.
        port: where it listens.
        buildctl: the client.
    """

    folder: Path
    others: Path
    port: int
    buildctl: Path

    def ask(self, *flags: str | Path, command: tuple[str, ...] = ("debug", "workers")) -> Done:
        done = subprocess.run(
            [self.buildctl, "--addr", f"tcp://127.0.0.1:{self.port}", *flags, *command],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def tls(self, ca: Path, side: Path) -> tuple[str | Path, ...]:
        return ("--tlscacert", ca, "--tlscert", side / "cert.pem", "--tlskey", side / "key.pem")

    def answers(self, *flags: str | Path) -> bool:
        done = self.ask(*(flags or ("--tlsdir", self.folder / "client")))
        return done.code == 0 and "PLATFORMS" in done.stdout


@pytest.fixture(scope="module")
def served(
    certs: Certs, binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    for name in ("certs", "others"):
        succeeded(certs(place / name, "--names", NAMES))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = Served(place / "certs", place / "others", port, binaries / "buildctl")
    # As root it runs as root; anybody else's in a user namespace of theirs.
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
        process.guarded(command, stdout=log.fileno(), stderr=log.fileno()) as child,
    ):
        eventually(lambda: child.poll() is not None or daemon.answers())
        assert daemon.answers(), (place / "log").read_text()
        yield daemon


def test_the_client_builds(served: Served, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /copied\n")
    local = [f"--local={name}={tmp_path}" for name in ("context", "dockerfile")]
    build = ("build", "--frontend=dockerfile.v0", *local, f"--output=type=local,dest={tmp_path}")
    done = served.ask("--tlsdir", served.folder / "client", command=build)
    assert done.code == 0, done
    assert (tmp_path / "copied").exists()


@pytest.mark.parametrize("name", ["localhost", "board.lan", "any.example.org"])
def test_by_each_of_its_names(served: Served, name: str) -> None:
    assert served.answers("--tlsdir", served.folder / "client", "--tlsservername", name)


@pytest.mark.parametrize("name", ["other.lan", "a.b.example.org", "example.org"])
def test_by_no_other_name(served: Served, name: str) -> None:
    done = served.ask("--tlsdir", served.folder / "client", "--tlsservername", name)
    assert done.code == 1
    assert "certificate is valid for localhost" in done.stderr


def assert_refused(served: Served, *flags: str | Path) -> None:
    done = served.ask(*flags)
    assert done.code == 1, done
    assert "Unavailable" in done.stderr, done
    assert served.answers()


def test_nobody_without_a_certificate(served: Served) -> None:
    assert_refused(served)
    assert_refused(served, "--tlscacert", served.folder / "ca.pem")


def test_nobody_with_a_certificate_of_another_authority(served: Served) -> None:
    assert_refused(served, *served.tls(served.folder / "ca.pem", served.others / "client"))


def test_no_other_daemon_with_its_certificate(served: Served) -> None:
    assert_refused(served, "--tlsdir", served.folder / "server")


def test_no_impostor(served: Served) -> None:
    done = served.ask("--tlsdir", served.others / "client")
    assert "unknown authority" in done.stderr


@pytest.mark.parametrize("year", [2019, 2049])
def test_only_until_it_ends(served: Served, tmp_path: Path, year: int) -> None:
    """With dates of our own choice; only `openssl ca` could do that before OpenSSL 3.4."""
    (tmp_path / "index.txt").touch()
    config = tmp_path / "ca.cnf"
    config.write_text(
        "[ca]\ndefault_ca = ours\n[ours]\n"
        f"database = {tmp_path / 'index.txt'}\nnew_certs_dir = {tmp_path}\n"
        "rand_serial = yes\ndefault_md = sha256\npolicy = any\nx509_extensions = client\n"
        "[any]\ncommonName = supplied\n[client]\nextendedKeyUsage = clientAuth\n"
    )
    openssl("req", "-new", "-key", served.folder / "client" / "key.pem", "-subj", "/CN=client",
            "-out", tmp_path / "request.pem")  # fmt: skip
    shutil.copy(served.folder / "client" / "key.pem", tmp_path)
    openssl("ca", "-batch", "-config", config, "-in", tmp_path / "request.pem",
            "-out", tmp_path / "cert.pem", "-notext", "-cert", served.folder / "ca.pem",
            "-keyfile", served.folder / "ca-key.pem",
            "-startdate", "20180101000000Z", "-enddate", f"{year}0101000000Z")  # fmt: skip
    flags = served.tls(served.folder / "ca.pem", tmp_path)
    if year > 2040:
        assert served.answers(*flags)
    else:
        assert_refused(served, *flags)


def test_renewed_before_the_daemon_is_restarted(
    certs: Certs, served: Served, tmp_path: Path
) -> None:
    renewed = shutil.copytree(served.folder, tmp_path / "certs")
    succeeded(certs(renewed))
    assert served.answers("--tlsdir", renewed / "client")
    succeeded(certs(renewed, "--new-ca"))
    assert_refused(served, "--tlsdir", renewed / "client")
