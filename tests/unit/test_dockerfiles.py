"""The scripts of the image, run with fake commands."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.validation.environment.waiting import BOUND, alive

Script = Callable[[str, str], Path]
FILES = project.ROOT / "dockerfiles"
ENTRYPOINT = FILES / "common/usr/bin/buildkitd-entrypoint"
DAEMONLESS = FILES / "common/usr/bin/buildctl-daemonless.sh"

# A fake command that prints its name and each argument on a line.
PRINTS = 'printf "%s\\n" "${0##*/}" "$@"'


@pytest.fixture
def bin_(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Write a command to the first directory of PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return lambda name, body: script(f"bin/{name}", body)


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", *args], env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=BOUND, check=False,
    )  # fmt: skip


def test_scripts_are_executable() -> None:
    for path in (ENTRYPOINT, DAEMONLESS, FILES / "packages/unpack", FILES / "packages/complete"):
        # The only bit of the mode that git records.
        assert path.stat().st_mode & 0o100
        assert run("-n", path).returncode == 0


# The entry point.


@pytest.fixture
def user(bin_: Script) -> None:
    """The entry point runs as a user."""
    bin_("id", "echo 1000")
    for name in ("rootlesskit", "buildkitd"):
        bin_(name, PRINTS)


@pytest.fixture
def root(bin_: Script) -> None:
    """The entry point runs as root in a private cgroup namespace."""
    bin_("id", "echo 0")
    bin_("sed", "echo /")
    bin_("buildkitd", PRINTS)


HARD = ["--config", "/a b/c", "", "$HOME", "a'b\"c", "*", "--x=1\n2"]


@pytest.mark.usefixtures("user")
def test_rootlesskit_for_users() -> None:
    done = run(ENTRYPOINT, *HARD)
    assert done.stdout == "\n".join(["rootlesskit", "buildkitd", *HARD, ""])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("user")
def test_options_of_rootlesskit() -> None:
    done = run(ENTRYPOINT, "--debug", ROOTLESSKIT_FLAGS="--net=slirp4netns --copy-up=/etc")
    assert done.stdout.split() == [
        "rootlesskit", "--net=slirp4netns", "--copy-up=/etc", "buildkitd", "--debug"
    ]  # fmt: skip


@pytest.mark.usefixtures("root")
def test_no_rootlesskit_for_root() -> None:
    done = run(ENTRYPOINT, *HARD, ROOTLESSKIT_FLAGS="--net=slirp4netns")
    assert done.stdout == "\n".join(["buildkitd", *HARD, ""])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("root")
def test_exit_code_of_the_daemon(bin_: Script) -> None:
    bin_("buildkitd", "exit 7")
    assert run(ENTRYPOINT).returncode == 7


TCP = ["--addr", "tcp://0.0.0.0:1234"]
CA, CERT, SECRET = ["--tlscacert", "/ca.pem"], ["--tlscert", "/cert.pem"], ["--tlskey", "/key.pem"]


@pytest.mark.parametrize("start", ["root", "user"])
@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (TCP, "--tlscacert"), (["--addr=tcp://:1234"], "--tlscacert"),
        (["--addr", "unix:///x", *TCP, "--debug"], "--tlscacert"),
        ([*TCP, *CERT, *SECRET], "--tlscacert"), ([*TCP, *CA, *SECRET], "--tlscert"),
        ([*CA, *CERT, *TCP], "--tlskey"), ([*TCP, *CERT, *SECRET, "--tlscacerts", "x"], "--tlscacert"),
        ([*TCP, *CERT, *SECRET, "--x=--tlscacert"], "--tlscacert"),
        ([*TCP, "--tlscacert=", *CERT, *SECRET], "--tlscacert"),
        ([*TCP, "--tlscacert", "", *CERT, *SECRET], "--tlscacert"),
        ([*TCP, *CA, "--tlscert", *SECRET], "--tlscert"),
        ([*TCP, *CA, *CERT, "--tlskey"], "--tlskey"),
    ],
)  # fmt: skip
def test_no_tcp_without_mutual_tls(
    request: pytest.FixtureRequest, start: str, words: list[str], missing: str
) -> None:
    request.getfixturevalue(start)
    done = run(ENTRYPOINT, *words)
    assert (done.returncode, done.stdout) == (2, "")
    error, fix = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert re.search(rf"{missing}\b(?!s)", error)
    assert all(flag in fix for flag in ("--tlscacert", "--tlscert", "--tlskey"))


@pytest.mark.parametrize(
    "words",
    [
        [*TCP, *CA, *CERT, *SECRET],
        ["--tlscacert=/ca.pem", "--tlscert=/cert.pem", "--tlskey=/key.pem", "--addr=tcp://:1234"],
        ["--addr", "unix:///run/buildkit/buildkitd.sock"], [],
    ],
)  # fmt: skip
@pytest.mark.usefixtures("root")
def test_valid_addresses(words: list[str]) -> None:
    done = run(ENTRYPOINT, *words)
    assert (done.returncode, done.stdout.split()) == (0, ["buildkitd", *words])


ADDRESS = 'address = ["unix:///x", "tcp://0.0.0.0:1234"]'
TLS = '[grpc.tls]\n  ca = "/ca.pem"\n  cert = "/cert.pem"\n  key = "/key.pem"\n'
OPEN = {
    "no TLS": f"[grpc]\n{ADDRESS}\n",
    "several lines": '[grpc]\naddress = [\n  "tcp://0.0.0.0:1234",\n]\n',
    "one key": f'[grpc]\n{ADDRESS}\n[grpc.tls]\nca = "/ca.pem"\n',
    "one key, three times": f"[grpc]\n{ADDRESS}\n[grpc.tls]\n" + 'ca = "/ca.pem"\n' * 3,
    "empty": f"[grpc]\n{ADDRESS}\n{TLS}".replace("/ca.pem", ""),
    "commented": f"[grpc]\n{ADDRESS}\n{TLS}".replace("  ca", "# ca"),
    "another table": f"[grpc]\n{ADDRESS}\n{TLS}".replace("[grpc.tls]", '[registry."x".tls]'),
}  # fmt: skip
CLOSED = {
    "TLS": f"[grpc]\n  {ADDRESS}\n  {TLS}",
    "TLS first": f"{TLS.replace('[grpc.tls]', '  [ grpc.tls ]  # keys')}[grpc]\n{ADDRESS}\n",
    "unix": '[grpc]\naddress = ["unix:///x"]\n',
    "commented": f"[grpc]\n# {ADDRESS}\n",
    "nothing": "",
}


@pytest.mark.parametrize("form", ["--config=FILE", "--config FILE", "-config FILE", "default"])
@pytest.mark.parametrize("name", OPEN)
@pytest.mark.usefixtures("root")
def test_no_configured_tcp_without_mutual_tls(tmp_path: Path, name: str, form: str) -> None:
    file = tmp_path / "buildkit" / "buildkitd.toml"
    file.parent.mkdir()
    file.write_text(OPEN[name])
    words = [] if form == "default" else form.replace("FILE", str(file)).split()
    env = {"XDG_CONFIG_HOME": str(tmp_path if form == "default" else tmp_path / "none")}
    done = run(ENTRYPOINT, *words, **env)
    assert (done.returncode, done.stdout) == (2, "")
    error, fix = done.stderr.splitlines()
    assert str(file) in error
    assert "--tlscacert" in fix
    # The flags take precedence over the file.
    assert run(ENTRYPOINT, *words, *CA, *CERT, *SECRET, **env).returncode == 0


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.usefixtures("root")
def test_valid_configuration(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.toml").write_text(CLOSED[name])
    words = ["--config", str(tmp_path / "x.toml"), "--debug"]
    done = run(ENTRYPOINT, *words)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["buildkitd", *words], "")


@pytest.fixture
def cgroups(bin_: Script, root: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The entry point in a container without a private cgroup namespace."""
    text = ENTRYPOINT.read_text()
    assert text.count("/sys/fs/cgroup/cgroup.controllers") == 1
    (tmp_path / "controllers").touch()
    bin_("sed", "echo /docker/abc")
    bin_("awk", "echo rw,nosuid")
    changed = text.replace("/sys/fs/cgroup/cgroup.controllers", str(tmp_path / "controllers"))
    return bin_("entrypoint", changed)


def test_a_missing_cgroup_namespace_is_created(cgroups: Path, bin_: Script, tmp_path: Path) -> None:
    for name in ("mount", "umount"):
        bin_(name, f'echo "{name} $*" >>{tmp_path}/done')
    bin_("unshare", f'echo "unshare $1 $2" >>{tmp_path}/done; shift 2; exec "$@"')
    done = run(cgroups, *HARD)
    assert done.stdout == "\n".join(["buildkitd", *HARD, ""])
    assert (tmp_path / "done").read_text().splitlines() == [
        "unshare --cgroup --mount", "umount /sys/fs/cgroup",
        "mount -t cgroup2 -o rw,nosuid cgroup2 /sys/fs/cgroup",
    ] * 2  # fmt: skip


@pytest.mark.parametrize("unshare", ["exit 1", 'shift 2; exec "$@"'])
def test_a_cgroup_namespace_that_cannot_be_created(
    cgroups: Path, bin_: Script, unshare: str
) -> None:
    bin_("unshare", unshare)
    bin_("umount", "echo umount: permission denied >&2; exit 32")
    done = run(cgroups, "--debug")
    assert done.stdout.split() == ["buildkitd", "--debug"]
    (warning,) = done.stderr.splitlines()
    assert "/docker/abc" in warning


def test_an_existing_cgroup_namespace_is_used(cgroups: Path, bin_: Script) -> None:
    bin_("sed", "echo /")
    bin_("unshare", "exit 99")
    done = run(cgroups, "--debug")
    assert (done.stdout.split(), done.stderr) == (["buildkitd", "--debug"], "")


# A daemon for one build.


@pytest.fixture
def daemonless(bin_: Script, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script with a fake daemon and a fake client, which record their actions in files."""
    bin_(
        "buildkitd-entrypoint",
        f'echo $$ >{tmp_path}/pid; printf "%s\\n" "$@" >{tmp_path}/flags; echo starting\n'
        f"trap 'echo ended >{tmp_path}/ended; exit 0' TERM\n"
        f"touch {tmp_path}/serves; while :; do sleep 0.02; done",
    )
    bin_(
        "buildctl",
        f"until [ -e {tmp_path}/serves ]; do sleep 0.02; done\n"
        f'[ "$1 $2" = "debug workers" ] && exit\n'
        f"echo $BUILDKIT_HOST >{tmp_path}/host; {PRINTS}; exit ${{CODE-0}}",
    )
    (tmp_path / "temporary").mkdir()

    def start(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(DAEMONLESS, *words, TMPDIR=str(tmp_path / "temporary"), **env)

    return start


Daemonless = Callable[..., subprocess.CompletedProcess[str]]


def ended(tmp_path: Path) -> bool:
    """True when the daemon got SIGTERM and ended, and no file is left."""
    pid = int((tmp_path / "pid").read_text())
    return (
        (tmp_path / "ended").exists()
        and not alive(pid)
        and not list((tmp_path / "temporary").iterdir())
    )


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_daemon_ends_with_the_build(daemonless: Daemonless, tmp_path: Path, code: int) -> None:
    done = daemonless("build", *HARD, CODE=str(code), BUILDCTL_CONNECT_RETRIES_MAX="9999")
    assert done.returncode == code
    assert done.stdout == "\n".join(["buildctl", "build", *HARD, ""])
    assert done.stderr == ""
    assert ended(tmp_path)


def test_private_socket(daemonless: Daemonless, tmp_path: Path) -> None:
    daemonless("build", BUILDKITD_FLAGS="--debug --root=/x")
    address = (tmp_path / "host").read_text().strip()
    assert address.startswith(f"unix://{tmp_path}/temporary/")
    assert (tmp_path / "flags").read_text().split() == ["--addr", address, "--debug", "--root=/x"]


def test_a_daemon_that_dies(daemonless: Daemonless, bin_: Script, tmp_path: Path) -> None:
    bin_("buildkitd-entrypoint", "echo first; echo no worker found >&2; exit 1")
    bin_("buildctl", "exit 1")
    done = daemonless("build")
    assert done.returncode == 1
    assert done.stdout == ""
    first, second, error = done.stderr.splitlines()
    assert (first, second) == ("first", "no worker found")
    assert error.startswith("error: buildkitd ")
    assert not list((tmp_path / "temporary").iterdir())


def test_a_daemon_that_never_answers(daemonless: Daemonless, bin_: Script, tmp_path: Path) -> None:
    bin_("buildctl", f"until [ -e {tmp_path}/serves ]; do sleep 0.02; done; exit 1")
    done = daemonless("build", BUILDCTL_CONNECT_RETRIES_MAX="1")
    assert done.returncode == 1
    first, error = done.stderr.splitlines()
    assert first == "starting"
    assert error.startswith("error: buildkitd ")
    assert ended(tmp_path)


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("INT", 130)])
def test_signals_end_the_daemon(
    daemonless: Daemonless, bin_: Script, tmp_path: Path, signal: str, code: int
) -> None:
    """The child sends the signal, because the shell only waits while a child runs."""
    bin_(
        "buildctl",
        f"until [ -e {tmp_path}/serves ]; do sleep 0.02; done\n"
        f"[ $1 = debug ] || kill -{signal} $PPID",
    )
    assert daemonless("build").returncode == code
    assert ended(tmp_path)


# Packages.


Deb = Callable[..., str]


@pytest.fixture
def deb(tmp_path: Path) -> Deb:
    """Build a package of files with modes, and return its name."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "root").mkdir()

    def make(name: str, files: Mapping[str, int], links: Mapping[str, str] | None = None) -> str:
        tree = tmp_path / "trees" / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: nobody\n"
            "Description: for tests\n"
        )
        (tree / "DEBIAN/postinst").write_text("#!/bin/sh\nexit 1\n")
        (tree / "DEBIAN/postinst").chmod(0o755)
        for path, mode in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(f"{path} of {name}")
            (tree / path).chmod(mode)
        for path, target in (links or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(target)
        file = f"{name}_1%3a2.0-3_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, tmp_path / "packages" / file],
            check=True, capture_output=True,
        )  # fmt: skip
        return file

    return make


def unpack(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "packages/list").write_text("".join(f"{line}\n" for line in lines))
    return run(FILES / "packages/unpack", tmp_path / "packages", tmp_path / "root")


def unpacked(tmp_path: Path) -> dict[str, int]:
    """The files with their modes, except dpkg's database."""
    root = tmp_path / "root"
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode)
        for path in root.rglob("*")
        if not path.is_dir() and "var/lib/dpkg" not in str(path)
    }


def test_packages_are_unpacked_and_recorded(deb: Deb, tmp_path: Path) -> None:
    one, two = deb("one", {"usr/bin/one": 0o755, "etc/one": 0o644}), deb("two", {"usr/bin/two": 0o755})  # fmt: skip
    done = unpack(tmp_path, one, two)
    assert (done.returncode, done.stderr) == (0, "")
    assert unpacked(tmp_path) == {"usr/bin/one": 0o755, "etc/one": 0o644, "usr/bin/two": 0o755}
    known = tmp_path / "root/var/lib/dpkg/status.d"
    assert sorted(path.name for path in known.iterdir()) == ["one", "two"]
    assert "Package: one\nVersion: 1:2.0-3\n" in (known / "one").read_text()


def test_single_files_of_packages(deb: Deb, tmp_path: Path) -> None:
    name = deb("util-linux", {"usr/bin/unshare": 0o755, "usr/bin/su": 0o4755, "usr/bin/unshare2": 0o755})  # fmt: skip
    assert unpack(tmp_path, f"{name} usr/bin/unshare").returncode == 0
    assert unpacked(tmp_path) == {"usr/bin/unshare": 0o755}
    assert (tmp_path / "root/var/lib/dpkg/status.d/util-linux").exists()


def test_no_program_is_setuid(deb: Deb, tmp_path: Path) -> None:
    name = deb("uidmap", {"usr/bin/newuidmap": 0o4755, "usr/bin/write": 0o2755, "usr/bin/both": 0o6711})  # fmt: skip
    assert unpack(tmp_path, name).returncode == 0
    assert unpacked(tmp_path) == {
        "usr/bin/newuidmap": 0o755, "usr/bin/write": 0o755, "usr/bin/both": 0o711
    }  # fmt: skip


def test_copyright_files_stay(deb: Deb, tmp_path: Path) -> None:
    doc = "usr/share/doc"
    name = deb("one", dict.fromkeys(
        [f"{doc}/one/copyright", f"{doc}/one/changelog.gz", f"{doc}/one/examples/deep/x", f"{doc}/two/README"],
        0o644,
    ))  # fmt: skip
    assert unpack(tmp_path, name).returncode == 0
    assert list(unpacked(tmp_path)) == [f"{doc}/one/copyright"]
    assert [path.name for path in (tmp_path / "root" / doc).rglob("*")] == ["one", "copyright"]


def test_unused_files_are_removed(deb: Deb, tmp_path: Path) -> None:
    removed = ["usr/share/man/man1/x.1.gz", "usr/lib/git-core/git-daemon", "usr/lib/git-core/git-cvsserver",
            "usr/lib/x86_64-linux-gnu/gconv/x.so", "usr/share/locale/de/x.mo", "etc/init.d/x"]  # fmt: skip
    remaining = ["usr/lib/git-core/git-remote-https", "usr/lib/x86_64-linux-gnu/libc.so.6", "etc/ssh/ssh_config"]  # fmt: skip
    assert (
        unpack(tmp_path, deb("one", dict.fromkeys([*removed, *remaining], 0o644))).returncode == 0
    )
    assert sorted(unpacked(tmp_path)) == sorted(remaining)


def test_links_to_directories_are_kept(deb: Deb, tmp_path: Path) -> None:
    """Debian's /bin is a link, and older packages have files in it."""
    first = deb("base-files", {}, {"bin": "usr/bin", "usr/bin/x": "y"})
    assert unpack(tmp_path, first, deb("old", {"bin/old": 0o755})).returncode == 0
    assert (tmp_path / "root/bin").readlink() == Path("usr/bin")
    assert (tmp_path / "root/usr/bin/old").is_file()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(), lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_text("no package"),
    ],
)  # fmt: skip
def test_a_damaged_package_fails(deb: Deb, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    name = deb("one", {"usr/bin/one": 0o755})
    spoil(tmp_path / "packages" / name)
    assert unpack(tmp_path, name).returncode != 0


def test_a_missing_file_of_a_package_fails(deb: Deb, tmp_path: Path) -> None:
    done = unpack(tmp_path, f"{deb('one', {'usr/bin/one': 0o755})} usr/bin/two")
    assert done.returncode != 0
    assert "usr/bin/two: Not found in archive" in done.stderr


# Completion.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root directory with every file that completion needs."""
    root = tmp_path / "root"
    for name in ("usr/bin/busybox", "usr/bin/tini", "usr/sbin/xtables-nft-multi", "usr/bin/tar",
                 "usr/bin/coreutils", "usr/bin/git", "usr/lib/git-core/git", "usr/sbin/chown", "usr/share/ca-certificates/b/two.crt",
                 "usr/share/ca-certificates/a/one.crt", "usr/share/ca-certificates/README"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    (root / "usr/bin/ls").symlink_to("coreutils")
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / "usr/sbin/iptables").symlink_to("/etc/alternatives/iptables")
    return root


def complete(root: Path) -> subprocess.CompletedProcess[str]:
    return run(FILES / "packages/complete", root)


def test_busybox_provides_missing_commands(tree: Path) -> None:
    assert complete(tree).returncode == 0
    for name in ("sh", "awk", "mount", "xargs"):
        assert (tree / "usr/bin" / name).readlink() == Path("busybox")
    assert not (tree / "usr/bin/tar").is_symlink()
    assert (tree / "usr/bin/ls").readlink() == Path("coreutils")
    assert not (tree / "usr/bin/chown").exists()  # chown is in sbin
    assert not (tree / "usr/bin/#").exists()


def test_certificates(tree: Path) -> None:
    complete(tree)
    assert (tree / "etc/ssl/certs/ca-certificates.crt").read_text() == (
        "usr/share/ca-certificates/a/one.crt\nusr/share/ca-certificates/b/two.crt\n"
    )


def test_links_of_alternatives(tree: Path) -> None:
    complete(tree)
    for name in ("iptables", "iptables-save", "ip6tables-restore"):
        assert (tree / "usr/sbin" / name).readlink() == Path("xtables-nft-multi")


def test_git_has_one_copy(tree: Path) -> None:
    complete(tree)
    assert (tree / "usr/lib/git-core/git").resolve() == (tree / "usr/bin/git").resolve()
    assert (tree / "usr/bin/git").read_text() == "usr/bin/git\n"


def test_init_is_a_copy(tree: Path) -> None:
    complete(tree)
    init = tree / "usr/sbin/docker-init"
    assert not init.is_symlink()
    assert init.read_bytes() == (tree / "usr/bin/tini").read_bytes()
    assert init.stat().st_ino != (tree / "usr/bin/tini").stat().st_ino
    for name in ("etc/buildkit", "etc/cdi", "var/lib/buildkit"):
        assert (tree / name).is_dir()


@pytest.mark.parametrize("name", ["usr/bin/tini", "etc/ssl"])
def test_a_missing_file_fails(tree: Path, name: str) -> None:
    path = tree / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert complete(tree).returncode != 0
