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

from buildkit_riscv64 import process, project
from buildkit_riscv64.errors import CheckError, MissingRequirementError, StorageError, UsageError
from buildkit_riscv64.image import certs


class OpenSSL:
    """Stands in for the command: its certificates are JSON, its keys are numbers."""

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
                known = json.loads(Path(after("-in")).read_text())
                names = known["names"].replace("IP:", "IP Address:").replace(",", ", ")
                said = f"notAfter={known['until']}\nsha256 Fingerprint=AB:CD\n    {names}\n"
                return process.Result(0, said + known["key"], "")
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
def folder(tmp_path: Path) -> Path:
    return tmp_path / "place" / "certs"


def options(
    folder: Path, names: str = "", days: int = 30, new_ca: bool = False, dry: bool = False
) -> certs.Options:
    return certs.Options.parse(names=names, days=days, output=str(folder), new_ca=new_ca, dry=dry)


def make(folder: Path, names: str = "", days: int = 30, new_ca: bool = False) -> certs.Made:
    made = certs.make(options(folder, names, days, new_ca))
    assert made
    assert made.folder == folder
    return made


def contents(folder: Path) -> dict[str, str]:
    """Every file there, and beside it: nothing half-made is."""
    place = folder.parent
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
    assert certs.parse_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a b", " a", "a ", "a\n", "a\nb", "a\tb", "a\0",
        # What OpenSSL or a shell would take for more than a name.
        "DNS:a", "a,IP:1.2.3.4", "a;b", "a=b", "@a", "$a", "${a}", "a#b", "a\\", "'a'", "-a", "a/b",
        "email:copy", "dirName:a", "RID:1.2",
        # Not as DNS has them.
        "a..b", ".a", "a.", "-", "a-", "a.-b", "a_b", "a" * 64, ".".join(["a" * 50] * 5) + ".b",
        "*", "*.", "a.*", "*a.b", "a.*.b", "*.*.a", "bücher.example", "\u212a8s",
        # Not an address, and no name either.
        "300.1.1.1", "1.2.3", "1.2.3.4.5", "192.168.1.1/24", "01.2.3.4", "1", "*.1", "[::1]", ":::1",
        "fe80::1%eth0", "board:1234", "127.0.0.1:1234", "tcp://board",
    ],
)  # fmt: skip
def test_hostile_names(name: str) -> None:
    with pytest.raises(UsageError, match="neither a DNS name nor an IP address") as caught:
        certs.parse_name(name)
    assert "--names board.lan,192.168.1.185" in caught.value.hint


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
    assert list(certs.default_names()) == names


# Options.


def test_options(checkout: Path, tmp_path: Path) -> None:
    parsed = certs.Options.parse(names="b,A,b,::1,0::1", days=825, output="", new_ca=True, dry=True)
    assert parsed == certs.Options(
        names=("b", "a", "::1"), days=825, folder=checkout / "certs", new_ca=True, dry=True
    )
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert options(tmp_path / "link").folder == tmp_path / "real"


@pytest.mark.parametrize("days", [-1, 0, 826])
def test_days(folder: Path, days: int) -> None:
    with pytest.raises(UsageError, match=f"--days {days}: not between 1 and 825"):
        options(folder, days=days)


@pytest.mark.parametrize("names", [",", "a,", "a,,b", "a, b"])
def test_lists_of_names(folder: Path, names: str) -> None:
    with pytest.raises(UsageError, match="neither"):
        options(folder, names=names)


# What is made.


def test_the_commands(openssl: OpenSSL, folder: Path) -> None:
    make(folder, "board.lan,*.example.org,::1,10.0.0.1", days=7)
    new = folder.with_name(".certs.new")
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


def test_the_folder(openssl: OpenSSL, folder: Path) -> None:
    made = make(folder)
    files = contents(folder)
    side = ("ca.pem", "cert.pem", "key.pem")
    assert set(files) == {
        "certs/ca.pem", "certs/ca-key.pem",
        *(f"certs/server/{name}" for name in side), *(f"certs/client/{name}" for name in side),
    }  # fmt: skip
    assert files["certs/ca.pem"] == files["certs/server/ca.pem"] == files["certs/client/ca.pem"]
    keys = [text for name, text in files.items() if name.endswith("key.pem")]
    assert len(set(keys)) == 3
    assert made.new_ca
    assert made.names == certs.default_names()
    # What is told is read from the files.
    assert made.server.until - datetime.now(UTC) == pytest.approx(
        timedelta(days=30), abs=timedelta(minutes=5)
    )


def test_nobody_else_can_read_it(openssl: OpenSSL, folder: Path) -> None:
    def safe(number: int) -> None:
        os.umask(mask := os.umask(0))
        assert mask == 0o077

    openssl.before = safe
    before = os.umask(0)
    try:
        for _ in range(2):
            make(folder)
            assert {
                stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()
            } == {0o600}
            assert {
                stat.S_IMODE(path.stat().st_mode)
                for path in (folder, *folder.rglob("*"))
                if path.is_dir()
            } == {0o700}
            # Renewed, it is put right.
            (folder / "ca-key.pem").chmod(0o644)
        after = os.umask(0)
    finally:
        os.umask(before)
    assert after == 0
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o777


def test_one_after_another(openssl: OpenSSL, folder: Path) -> None:
    def held(number: int) -> None:
        with (project.cache() / "certs.lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    openssl.before = held
    make(folder)


# Again.


def test_renewal(openssl: OpenSSL, folder: Path) -> None:
    make(folder, "board.lan,::1")
    before = contents(folder)
    openssl.calls.clear()
    made = make(folder, days=100)
    after = contents(folder)
    assert not made.new_ca
    assert made.names == ("board.lan", "::1")
    assert openssl.issued == ["cert.pem", "cert.pem"]
    assert {name for name in before if before[name] == after[name]} == {
        "certs/ca.pem", "certs/ca-key.pem", "certs/server/ca.pem", "certs/client/ca.pem",
    }  # fmt: skip
    assert make(folder, "other").names == ("other",)
    assert make(folder).names == ("other",)


def test_a_new_authority(openssl: OpenSSL, folder: Path) -> None:
    make(folder, "board.lan")
    before = contents(folder)
    made = make(folder, new_ca=True)
    after = contents(folder)
    assert made.new_ca
    assert made.names == ("board.lan",)
    assert all(before[name] != after[name] for name in before)


def test_names_of_before_are_looked_at_too(openssl: OpenSSL, folder: Path) -> None:
    make(folder)
    server = folder / "server" / "cert.pem"
    server.write_text(json.dumps({**json.loads(server.read_text()), "names": "DNS:a=b"}))
    before = contents(folder)
    with pytest.raises(UsageError, match="a=b"):
        make(folder)
    assert contents(folder) == before
    make(folder, "a")


def test_without_the_key_nothing_is_renewed(openssl: OpenSSL, folder: Path) -> None:
    make(folder)
    (folder / "ca-key.pem").unlink()
    before = contents(folder)
    with pytest.raises(CheckError, match=r"ca-key\.pem is not there") as caught:
        make(folder)
    assert caught.value.hint == "put it back, or begin anew with --new-ca"
    assert contents(folder) == before
    assert make(folder, new_ca=True).new_ca


def test_the_key_of_another(openssl: OpenSSL, folder: Path) -> None:
    make(folder)
    (folder / "ca-key.pem").write_text((folder / "client" / "key.pem").read_text())
    before = contents(folder)
    with pytest.raises(CheckError, match=r"ca-key\.pem is not the key of .*ca\.pem") as caught:
        make(folder)
    assert "without a passphrase" in caught.value.hint
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("left", "days", "hint"),
    [
        (timedelta(days=20, hours=1), 21, "--days 20 is possible, or begin anew"),
        (timedelta(hours=23), 1, "begin anew"),
        (timedelta(days=-1), 1, "begin anew"),
    ],
)
def test_an_authority_that_ends_too_early(
    openssl: OpenSSL, folder: Path, left: timedelta, days: int, hint: str
) -> None:
    make(folder)
    ca = folder / "ca.pem"
    until = datetime.now(UTC) + left
    ca.write_text(json.dumps({**json.loads(ca.read_text()), "until": f"{until:%F %T}Z"}))
    before = contents(folder)
    with pytest.raises(CheckError, match=f"ends on {until:%F}: too early for --days {days}") as caught:  # fmt: skip
        make(folder, days=days)
    assert caught.value.hint.startswith(hint)
    assert contents(folder) == before
    if left.days > 0:
        make(folder, days=left.days)
    make(folder, new_ca=True, days=days)


# What is there already.


@pytest.mark.parametrize(
    "files",
    [
        ["notes.txt"], ["ca.pem", "notes.txt"], ["ca.pem", "server/notes.txt"],
        ["ca.pem", "client/deep/er"], ["server/cert.pem"], ["ca-key.pem"],
    ],
)  # fmt: skip
def test_what_is_not_ours_stays(openssl: OpenSSL, folder: Path, files: list[str]) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    before = contents(folder)
    for new_ca in (False, True):
        with pytest.raises(UsageError) as caught:
            make(folder, new_ca=new_ca)
        assert "--output" in caught.value.hint
    assert contents(folder) == before
    assert not openssl.calls


def test_a_file_of_that_name_stays(openssl: OpenSSL, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("theirs")
    with pytest.raises(UsageError, match="is not a folder"):
        make(folder)
    assert folder.read_text() == "theirs"


def test_what_belongs_to_somebody_else_stays(
    openssl: OpenSSL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(folder)
    before = contents(folder)
    # To root everything belongs.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != folder / "server")
    with pytest.raises(StorageError, match="certs/server is not yours") as caught:
        make(folder)
    assert caught.value.hint == f'sudo chown -R "$USER" {folder}'
    assert contents(folder) == before


def test_an_empty_folder_will_do(openssl: OpenSSL, folder: Path) -> None:
    folder.mkdir(parents=True)
    make(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_stays_a_link(openssl: OpenSSL, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    for _ in range(2):
        assert certs.make(options(link))
    assert link.is_symlink()
    assert (folder / "ca.pem").exists()


# What goes wrong.


def interrupt(openssl: OpenSSL, at: int) -> None:
    """Have Ctrl-C come before the command of that number."""

    def count(number: int) -> None:
        if number == at:
            raise KeyboardInterrupt

    openssl.calls.clear()
    openssl.before = count


@pytest.mark.parametrize("new_ca", [False, True])
def test_interrupted_at_any_command(openssl: OpenSSL, folder: Path, new_ca: bool) -> None:
    make(folder)
    openssl.calls.clear()
    make(folder, new_ca=new_ca)
    before = contents(folder)
    for at in range(1, len(openssl.calls) + 1):
        interrupt(openssl, at)
        with pytest.raises(KeyboardInterrupt):
            make(folder, new_ca=new_ca)
        assert contents(folder) == before


def test_interrupted_the_first_time(openssl: OpenSSL, folder: Path) -> None:
    umask = os.umask(0o022)
    try:
        interrupt(openssl, 1)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    finally:
        left = os.umask(umask)
    assert list(folder.parent.iterdir()) == []
    assert left == 0o022


@pytest.mark.parametrize("at", [1, 2])
def test_put_in_place_or_put_back(
    openssl: OpenSSL, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    make(folder)
    before = contents(folder)
    rename, renamed = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == at:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(folder)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["certs"]


def test_what_a_killed_run_left(openssl: OpenSSL, folder: Path) -> None:
    make(folder, "board.lan")
    ca = (folder / "ca.pem").read_text()
    # Killed between the two renames.
    folder.rename(folder.with_name(".certs.old"))
    (folder.with_name(".certs.new") / "server").mkdir(parents=True)
    made = make(folder)
    assert (made.new_ca, made.names) == (False, ("board.lan",))
    assert (folder / "ca.pem").read_text() == ca
    # Killed after them.
    folder.with_name(".certs.old").mkdir()
    assert not make(folder).new_ca
    assert [path.name for path in folder.parent.iterdir()] == ["certs"]


def test_a_power_cut(openssl: OpenSSL, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set()

    def record(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.add(path.relative_to(folder.with_name(".certs.new")))

    monkeypatch.setattr(os, "fsync", record)
    make(folder)
    assert synced == {path.relative_to(folder) for path in (folder, *folder.rglob("*"))}


def test_a_full_disk(openssl: OpenSSL, folder: Path) -> None:
    make(folder)
    before = contents(folder)
    openssl.disk_is_full = True
    for new_ca in (False, True):
        with pytest.raises(StorageError, match="no space left"):
            make(folder, new_ca=new_ca)
    assert contents(folder) == before


def test_without_openssl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingRequirementError) as caught:
        make(folder)
    assert caught.value.tool == "openssl"


def test_an_old_openssl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = process.Result(1, "", "req: Unrecognized flag noenc\nreq: Use -help for summary.\n")
    monkeypatch.setattr(process, "probe", lambda *_args, **_options: answer)
    with pytest.raises(MissingRequirementError) as caught:
        make(folder)
    assert "3.0" in caught.value.hint
    assert not caught.value.tool


# What is told.


def test_dry(openssl: OpenSSL, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certs.make(options(folder, "a,b", dry=True)) is None
    assert not folder.parent.exists()
    make(folder, "c", days=1)
    before = contents(folder)
    assert certs.make(options(folder, days=1, dry=True)) is None
    certs.report(None, json=True)
    assert contents(folder) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"would make certificates in {folder}/ for a, b, good for 30 days, with a new CA\n"
        f"would make certificates in {folder}/ for c, good for 1 day, with the same CA\n"
    )
    with pytest.raises(UsageError):
        certs.make(options(folder.parent, dry=True))


def test_report(
    openssl: OpenSSL, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder.parent.mkdir()
    monkeypatch.chdir(folder.parent)
    made = make(folder, "*.example.org,::1")
    certs.report(made, json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"certificates in certs/ for *.example.org, ::1, until {made.server.until:%F}",
        f"CA: new, until {made.ca.until:%F}, sha256 fingerprint",
        "  AB:CD",
        "daemon: buildkitd --addr tcp://0.0.0.0:1234 --tlscacert certs/server/ca.pem"
        " --tlscert certs/server/cert.pem --tlskey certs/server/key.pem",
        "client: buildctl --addr 'tcp://[::1]:1234' --tlsdir certs/client debug workers",
        "keep certs/ca-key.pem to yourself: who has it can let anybody in",
    ]
    certs.report(make(folder, "*.a"), json=False)
    said = capsys.readouterr()
    assert "CA: the same" in said.err
    assert "restart the daemon" in said.err
    assert "--addr tcp://HOST:1234 " in said.err


def test_report_as_json(
    openssl: OpenSSL, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    made = make(folder, "board.lan")
    certs.report(made, json=True)

    def known(one: certs.Certificate) -> dict[str, str]:
        return {"until": f"{one.until:%FT%TZ}", "sha256": "AB:CD"}

    assert json.loads(capsys.readouterr().out) == {
        "folder": str(folder), "names": ["board.lan"],
        "ca": {**known(made.ca), "new": True},
        "server": known(made.server), "client": known(made.client),
    }  # fmt: skip
