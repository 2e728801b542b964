from __future__ import annotations

import fcntl
import json
import os
import platform
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buildkit_riscv64.buildkitd import certificates
from buildkit_riscv64.core import dry_run, process, project
from buildkit_riscv64.core.errors import (
    CheckError,
    MissingRequirementError,
    StorageError,
    UsageError,
)


class OpenSSL:
    """A fake openssl: its certificates are JSON, its keys are numbers."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.before: Callable[[int], object] = lambda number: None
        self.disk_is_full = False

    def probe(self, args: process.Arguments, **_: object) -> process.Result:
        words = [os.fspath(arg) for arg in args]
        assert words.pop(0) == "openssl"
        self.calls.append(words)
        self.before(len(self.calls))

        def after(option: str) -> str:
            return words[words.index(option) + 1]

        match words[0]:
            case "req":
                key = f"-----BEGIN PUBLIC KEY-----\n{len(self.calls)}\n"
                until = datetime.now(UTC) + timedelta(days=int(after("-days")))
                sans = [w.partition("=")[2] for w in words if w.startswith("subjectAltName=")]
                known = {"until": f"{until:%F %T}Z", "names": "".join(sans), "key": key}
                Path(after("-keyout")).write_text("" if self.disk_is_full else key)
                Path(after("-out")).write_text("" if self.disk_is_full else json.dumps(known))
            case "x509":
                try:
                    known = json.loads(Path(after("-in")).read_text())
                except ValueError:
                    return process.Result(1, "", "Could not read certificate")
                names = known["names"].replace("IP:", "IP Address:").replace(",", ", ")
                output = f"notAfter={known['until']}\nsha256 Fingerprint=AB:CD\n    {names}\n"
                return process.Result(0, output + known["key"], "")
            case "pkey":
                return process.Result(0, Path(after("-in")).read_text(), "")
        return process.Result(0, "", "")

    @property
    def issued(self) -> list[str]:
        return [Path(call[call.index("-out") + 1]).name for call in self.calls if call[0] == "req"]


@pytest.fixture
def openssl(monkeypatch: pytest.MonkeyPatch) -> OpenSSL:
    fake = OpenSSL()
    monkeypatch.setattr(process, "probe", fake.probe)
    return fake


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "place" / "certs"


def options(
    directory: Path, names: str = "", days: int = 30, new_ca: bool = False
) -> certificates.CertificateOptions:
    return certificates.CertificateOptions.parse(
        names=names, days=days, output=str(directory), new_ca=new_ca
    )


def make(
    directory: Path, names: str = "", days: int = 30, new_ca: bool = False
) -> certificates.CertificateSet:
    created = certificates.make(options(directory, names, days, new_ca))
    assert created
    assert created.directory == directory
    return created


def contents(directory: Path) -> dict[str, str]:
    """Every file, after a check that there is no partial output."""
    place = directory.parent
    return {str(p.relative_to(place)): p.read_text() for p in place.rglob("*") if p.is_file()}


# Names.


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("localhost", "localhost"), ("Board.LAN", "board.lan"), ("a-b.c1", "a-b.c1"),
        ("3com.example", "3com.example"), ("*.example.org", "*.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"), ("a" * 63, "a" * 63),
        (".".join(["a" * 49] * 5), ".".join(["a" * 49] * 5)),
        ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("FE80:0::00A", "fe80::a"),
    ],
)  # fmt: skip
def test_names(name: str, parsed: str) -> None:
    assert certificates.parse_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a b", " a", "a ", "a\n", "a\nb", "a\tb", "a\0",
        # OpenSSL or a shell would interpret these.
        "DNS:a", "a,IP:1.2.3.4", "a;b", "a=b", "@a", "$a", "${a}", "a#b", "a\\", "'a'", "-a", "a/b",
        "email:copy", "dirName:a", "RID:1.2",
        # Invalid in DNS.
        "a..b", ".a", "a.", "-", "a-", "a.-b", "a_b", "a" * 64, ".".join(["a" * 50] * 5) + ".b",
        "*", "*.", "a.*", "*a.b", "a.*.b", "*.*.a", "bücher.example", "\u212a8s",
        # Neither an address nor a name.
        "300.1.1.1", "1.2.3", "1.2.3.4.5", "192.168.1.1/24", "01.2.3.4", "1", "*.1", "[::1]", ":::1",
        "fe80::1%eth0", "board:1234", "127.0.0.1:1234", "tcp://board",
    ],
)  # fmt: skip
def test_hostile_names(name: str) -> None:
    with pytest.raises(UsageError, match="--names: ") as caught:
        certificates.parse_name(name)
    assert "--names" in caught.value.hint


@pytest.mark.parametrize(
    ("node", "names"),
    [
        ("Board", ["localhost", "127.0.0.1", "::1", "board"]),
        ("localhost", ["localhost", "127.0.0.1", "::1"]),
        ("my_board", ["localhost", "127.0.0.1", "::1"]),
        ("", ["localhost", "127.0.0.1", "::1"]),
    ],
)
def test_default_names(monkeypatch: pytest.MonkeyPatch, node: str, names: list[str]) -> None:
    monkeypatch.setattr(platform, "node", lambda: node)
    assert list(certificates.default_names()) == names


# Options.


def test_options(checkout: Path, tmp_path: Path) -> None:
    parsed = certificates.CertificateOptions.parse(
        names="b,A,b,::1,0::1", days=825, output="", new_ca=True
    )
    assert parsed == certificates.CertificateOptions(
        names=("b", "a", "::1"), days=825, directory=checkout / "certs", new_ca=True
    )
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert options(tmp_path / "link").directory == tmp_path / "real"


@pytest.mark.parametrize("days", [-1, 0, 826])
def test_days(directory: Path, days: int) -> None:
    with pytest.raises(UsageError, match=f"--days {days}.* 825"):
        options(directory, days=days)


@pytest.mark.parametrize("names", [",", "a,", "a,,b", "a, b"])
def test_lists_of_names(directory: Path, names: str) -> None:
    with pytest.raises(UsageError, match="--names"):
        options(directory, names=names)


# Creation.


def test_openssl_commands(openssl: OpenSSL, directory: Path) -> None:
    make(directory, "board.lan,*.example.org,::1,10.0.0.1", days=7)
    new = directory.with_name(".certs.new")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    signer = ["-CA", f"{new}/ca.pem", "-CAkey", f"{new}/ca-key.pem", "-passin", "pass:"]
    leaf = [
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", "keyUsage=critical,digitalSignature",
        "-addext", "subjectKeyIdentifier=hash",
        "-addext", "authorityKeyIdentifier=keyid:always",
    ]  # fmt: skip
    shown = ["-noout", "-enddate", "-dateopt", "iso_8601", "-fingerprint", "-sha256", "-ext",
             "subjectAltName", "-pubkey"]  # fmt: skip

    def looked_at(certificate: str, key: str) -> list[list[str]]:
        return [
            ["x509", "-in", f"{new}/{certificate}", *shown],
            ["pkey", "-in", f"{new}/{key}", "-passin", "pass:", "-pubout"],
        ]

    def side(name: str, *extensions: str) -> list[list[str]]:
        return [
            ["req", "-x509", "-config", "/dev/null", *signer, *curve,
             "-keyout", f"{new}/{name}/key.pem", "-out", f"{new}/{name}/cert.pem",
             "-subj", f"/CN=BuildKit {name}", "-days", "7", *leaf, *extensions],
            ["verify", "-x509_strict", "-purpose", f"ssl{name}",
             "-CAfile", f"{new}/{name}/ca.pem", f"{new}/{name}/cert.pem"],
            *looked_at(f"{name}/cert.pem", f"{name}/key.pem"),
        ]  # fmt: skip

    assert openssl.calls == [
        ["req", "-x509", "-config", "/dev/null", *curve,
         "-keyout", f"{new}/ca-key.pem", "-out", f"{new}/ca.pem",
         "-subj", "/CN=buildkit-riscv64 CA", "-days", "3650",
         "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign",
         "-addext", "subjectKeyIdentifier=hash"],
        *looked_at("ca.pem", "ca-key.pem"),
        *side("server", "-addext", "extendedKeyUsage=serverAuth",
              "-addext", "subjectAltName=DNS:board.lan,DNS:*.example.org,IP:::1,IP:10.0.0.1"),
        *side("client", "-addext", "extendedKeyUsage=clientAuth"),
    ]  # fmt: skip


def test_directory(openssl: OpenSSL, directory: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    created = make(directory)
    files = contents(directory)
    side = ("ca.pem", "cert.pem", "key.pem")
    assert set(files) == {
        "certs/ca.pem", "certs/ca-key.pem",
        *(f"certs/server/{name}" for name in side), *(f"certs/client/{name}" for name in side),
    }  # fmt: skip
    assert files["certs/ca.pem"] == files["certs/server/ca.pem"] == files["certs/client/ca.pem"]
    keys = [text for name, text in files.items() if name.endswith("key.pem")]
    assert len(set(keys)) == 3
    assert created.new_ca
    assert created.names == certificates.default_names()
    # Read from the files, to the second.
    ends = created.server.until - timedelta(days=30)
    assert before <= ends <= datetime.now(UTC)


def test_files_are_private(openssl: OpenSSL, directory: Path) -> None:
    def safe(number: int) -> None:
        os.umask(mask := os.umask(0))
        assert mask == 0o077

    openssl.before = safe
    before = os.umask(0)
    try:
        for _ in range(2):
            make(directory)
            assert {
                stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()
            } == {0o600}
            assert {
                stat.S_IMODE(path.stat().st_mode)
                for path in (directory, *directory.rglob("*"))
                if path.is_dir()
            } == {0o700}
            # A renewal restores the modes.
            (directory / "ca-key.pem").chmod(0o644)
        after = os.umask(0)
    finally:
        os.umask(before)
    assert after == 0
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o777


def test_concurrent_runs_wait(openssl: OpenSSL, directory: Path) -> None:
    def held(number: int) -> None:
        with (project.cache() / "certs.lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    openssl.before = held
    make(directory)


# Renewal.


def test_renewal(openssl: OpenSSL, directory: Path) -> None:
    make(directory, "board.lan,::1")
    before = contents(directory)
    openssl.calls.clear()
    created = make(directory, days=100)
    after = contents(directory)
    assert not created.new_ca
    assert created.names == ("board.lan", "::1")
    assert openssl.issued == ["cert.pem", "cert.pem"]
    assert {name for name in before if before[name] == after[name]} == {
        "certs/ca.pem", "certs/ca-key.pem", "certs/server/ca.pem", "certs/client/ca.pem",
    }  # fmt: skip
    assert make(directory, "other").names == ("other",)
    assert make(directory).names == ("other",)


def test_new_ca(openssl: OpenSSL, directory: Path) -> None:
    make(directory, "board.lan")
    before = contents(directory)
    created = make(directory, new_ca=True)
    after = contents(directory)
    assert created.new_ca
    assert created.names == ("board.lan",)
    assert all(before[name] != after[name] for name in before)


def test_previous_names_are_validated(openssl: OpenSSL, directory: Path) -> None:
    make(directory)
    server = directory / "server" / "cert.pem"
    server.write_text(json.dumps({**json.loads(server.read_text()), "names": "DNS:a=b"}))
    before = contents(directory)
    with pytest.raises(UsageError, match="a=b"):
        make(directory)
    assert contents(directory) == before
    make(directory, "a")


def test_missing_ca_key(openssl: OpenSSL, directory: Path) -> None:
    make(directory)
    (directory / "ca-key.pem").unlink()
    before = contents(directory)
    with pytest.raises(CheckError, match=r"ca-key\.pem") as caught:
        make(directory)
    assert "--new-ca" in caught.value.hint
    assert contents(directory) == before
    assert make(directory, new_ca=True).new_ca


@pytest.mark.parametrize("content", ["", "not a certificate"])
def test_damaged_ca(openssl: OpenSSL, directory: Path, content: str) -> None:
    make(directory)
    (directory / "ca.pem").write_text(content)
    before = contents(directory)
    with pytest.raises(CheckError, match=r"ca\.pem") as caught:
        make(directory)
    assert "--new-ca" in caught.value.hint
    assert contents(directory) == before


def test_key_of_another_certificate(openssl: OpenSSL, directory: Path) -> None:
    make(directory)
    (directory / "ca-key.pem").write_text((directory / "client" / "key.pem").read_text())
    before = contents(directory)
    with pytest.raises(CheckError, match=r"ca-key\.pem .*ca\.pem") as caught:
        make(directory)
    assert "without a passphrase" in caught.value.hint
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("left", "days", "hint"),
    [
        (timedelta(days=20, hours=1), 21, "--days 20 is possible"),
        (timedelta(hours=23), 1, "--new-ca"),
        (timedelta(days=-1), 1, "--new-ca"),
    ],
)
def test_ca_expires_too_early(
    openssl: OpenSSL, directory: Path, left: timedelta, days: int, hint: str
) -> None:
    make(directory)
    ca = directory / "ca.pem"
    until = datetime.now(UTC) + left
    ca.write_text(json.dumps({**json.loads(ca.read_text()), "until": f"{until:%F %T}Z"}))
    before = contents(directory)
    with pytest.raises(CheckError, match=f"{until:%F}.*--days {days}") as caught:  # fmt: skip
        make(directory, days=days)
    assert hint in caught.value.hint
    assert contents(directory) == before
    if left.days > 0:
        make(directory, days=left.days)
    make(directory, new_ca=True, days=days)


# Existing files.


@pytest.mark.parametrize(
    "files",
    [
        ["notes.txt"], ["ca.pem", "notes.txt"], ["ca.pem", "server/notes.txt"],
        ["ca.pem", "client/deep/er"], ["server/cert.pem"], ["ca-key.pem"],
    ],
)  # fmt: skip
def test_foreign_files_are_kept(openssl: OpenSSL, directory: Path, files: list[str]) -> None:
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("foreign")
    before = contents(directory)
    for new_ca in (False, True):
        with pytest.raises(UsageError) as caught:
            make(directory, new_ca=new_ca)
        assert "--output" in caught.value.hint
    assert contents(directory) == before
    assert not openssl.calls


def test_file_instead_of_a_directory_is_kept(openssl: OpenSSL, directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_text("foreign")
    with pytest.raises(UsageError, match="--output"):
        make(directory)
    assert directory.read_text() == "foreign"


def test_files_of_another_user_are_kept(
    openssl: OpenSSL, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(directory)
    before = contents(directory)
    # Root may access every file.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != directory / "server")
    with pytest.raises(StorageError, match="certs/server") as caught:
        make(directory)
    assert f'chown -R "$USER" {directory}' in caught.value.hint
    assert contents(directory) == before


def test_empty_directory(openssl: OpenSSL, directory: Path) -> None:
    directory.mkdir(parents=True)
    make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_link_stays_a_link(openssl: OpenSSL, directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    for _ in range(2):
        assert certificates.make(options(link))
    assert link.is_symlink()
    assert (directory / "ca.pem").exists()


# Failures.


def interrupt(openssl: OpenSSL, at: int) -> None:
    """Interrupt before the command with this number."""

    def count(number: int) -> None:
        if number == at:
            raise KeyboardInterrupt

    openssl.calls.clear()
    openssl.before = count


@pytest.mark.parametrize("new_ca", [False, True])
def test_interrupted_at_any_command(openssl: OpenSSL, directory: Path, new_ca: bool) -> None:
    make(directory)
    openssl.calls.clear()
    make(directory, new_ca=new_ca)
    before = contents(directory)
    for at in range(1, len(openssl.calls) + 1):
        interrupt(openssl, at)
        with pytest.raises(KeyboardInterrupt):
            make(directory, new_ca=new_ca)
        assert contents(directory) == before


def test_interrupted_the_first_time(openssl: OpenSSL, directory: Path) -> None:
    umask = os.umask(0o022)
    try:
        interrupt(openssl, 1)
        with pytest.raises(KeyboardInterrupt):
            make(directory)
    finally:
        left = os.umask(umask)
    assert list(directory.parent.iterdir()) == []
    assert left == 0o022


@pytest.mark.parametrize("at", [1, 2])
def test_replacement_is_atomic(
    openssl: OpenSSL, directory: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    make(directory)
    before = contents(directory)
    rename, renamed = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == at:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(directory)
    assert contents(directory) == before
    assert [path.name for path in directory.parent.iterdir()] == ["certs"]


def test_leftovers_of_a_killed_run(openssl: OpenSSL, directory: Path) -> None:
    make(directory, "board.lan")
    ca = (directory / "ca.pem").read_text()
    # Killed between the two renames.
    directory.rename(directory.with_name(".certs.old"))
    (directory.with_name(".certs.new") / "server").mkdir(parents=True)
    created = make(directory)
    assert (created.new_ca, created.names) == (False, ("board.lan",))
    assert (directory / "ca.pem").read_text() == ca
    # Killed after them.
    directory.with_name(".certs.old").mkdir()
    assert not make(directory).new_ca
    assert [path.name for path in directory.parent.iterdir()] == ["certs"]


def test_power_cut(openssl: OpenSSL, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set()

    def record(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.add(path.relative_to(directory.with_name(".certs.new")))

    monkeypatch.setattr(os, "fsync", record)
    make(directory)
    assert synced == {path.relative_to(directory) for path in (directory, *directory.rglob("*"))}


def test_full_disk(openssl: OpenSSL, directory: Path) -> None:
    make(directory)
    before = contents(directory)
    openssl.disk_is_full = True
    for new_ca in (False, True):
        with pytest.raises(StorageError, match="no space left"):
            make(directory, new_ca=new_ca)
    assert contents(directory) == before


def test_without_openssl(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingRequirementError) as caught:
        make(directory)
    assert caught.value.tool == "openssl"


def test_old_openssl(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = process.Result(1, "", "req: Unrecognized flag noenc\nreq: Use -help for summary.\n")
    monkeypatch.setattr(process, "probe", lambda *_args, **_options: answer)
    with pytest.raises(MissingRequirementError) as caught:
        make(directory)
    assert "3.0" in caught.value.hint
    assert not caught.value.tool


# The report.


def test_dry(openssl: OpenSSL, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with dry_run.running(dry=True):
        assert certificates.make(options(directory, "a,b")) is None
    assert not directory.parent.exists()
    make(directory, "c", days=1)
    before = contents(directory)
    with dry_run.running(dry=True):
        assert certificates.make(options(directory, days=1)) is None
    certificates.report(None, json=True)
    assert contents(directory) == before
    output = capsys.readouterr()
    assert output.out == ""
    first, second = output.err.splitlines()
    assert all(words in first for words in (f"{directory}/", "a, b", "30 days", "new CA"))
    assert all(words in second for words in (f"{directory}/", "for c,", "1 day,", "same CA"))
    with dry_run.running(dry=True), pytest.raises(UsageError):
        certificates.make(options(directory.parent))


def test_report(
    openssl: OpenSSL,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory.parent.mkdir()
    monkeypatch.chdir(directory.parent)
    created = make(directory, "*.example.org,::1")
    certificates.report(created, json=False)
    output = capsys.readouterr()
    assert output.out == ""
    names, ca, *commands = output.err.splitlines()
    assert "certs/" in names
    assert f"*.example.org, ::1, until {created.server.until:%F}" in names
    assert f"new, until {created.ca.until:%F}" in ca
    assert commands[:-1] == [
        "  AB:CD",
        "daemon: buildkitd --addr tcp://0.0.0.0:1234 --tlscacert certs/server/ca.pem"
        " --tlscert certs/server/cert.pem --tlskey certs/server/key.pem",
        "client: buildctl --addr 'tcp://[::1]:1234' --tlsdir certs/client debug workers",
    ]
    assert "certs/ca-key.pem" in commands[-1]
    certificates.report(make(directory, "*.a"), json=False)
    output = capsys.readouterr()
    assert "CA: the same" in output.err
    assert "restart the daemon" in output.err
    assert "--addr tcp://HOST:1234 " in output.err


def test_report_as_json(
    openssl: OpenSSL, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    created = make(directory, "board.lan")
    certificates.report(created, json=True)

    def known(one: certificates.Certificate) -> dict[str, str]:
        return {"until": f"{one.until:%FT%TZ}", "sha256": "AB:CD"}

    assert json.loads(capsys.readouterr().out) == {
        "folder": str(directory), "names": ["board.lan"],
        "ca": {**known(created.ca), "new": True},
        "server": known(created.server), "client": known(created.client),
    }  # fmt: skip
