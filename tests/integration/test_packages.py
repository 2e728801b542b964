"""Packages of the real binaries: build, serve, install, upgrade, remove, refuse."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import dist, filesystem, process
from buildkit_riscv64.core.arch import Architecture, Target
from buildkit_riscv64.packages import signing
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.cached_roots import KERNEL_MODE, UDEV_MODE
from buildkit_riscv64.validation.environment.loopback import serving
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import eventually

from . import debianroot
from .debianroot import Root, debian_root
from .keys import Keyring
from .miniature import Project, remove, succeeded

pytestmark = pytest.mark.integration

TARGET = Target.here().name
ARCH = Architecture.here()
#: The repositories' address; tests replace it by one that they serve.
URL = "https://packages.example.org"
SOURCES = "/etc/apt/sources.list.d/buildkit.sources"
KEY = "/etc/apt/keyrings/buildkit.asc"
PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


@dataclass(frozen=True)
class BuiltPackages:
    """Packages and repositories, built once for all tests.

    Args:
        project: the checkout.
        first: repositories of revision 1.
        second: repositories of revision 2.
        key: the private key that signed both.
        public: the public key of another user.
        packages: the directory with packages of revision 1.
    """

    project: Project
    first: Path
    second: Path
    key: str
    public: str
    packages: Path


@pytest.fixture(scope="module")
@needs("apt-ftparchive", "createrepo_c", "gpg", "rpmsign", "loopback")
def built(
    upstream_target: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BuiltPackages]:
    directory = tmp_path_factory.mktemp("packages")
    copy_checkout(directory / "checkout")
    unwanted = {"CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", signing.KEY, signing.PASSPHRASE}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    env["INVOKE_PACKAGES_URL"] = URL
    project = Project(directory / "checkout", env)
    ignored = shutil.ignore_patterns(*dist.PARTS)
    shutil.copytree(upstream_target, project.dist / TARGET, ignore=ignored)
    with Keyring(tmp_path_factory.mktemp("ring")) as ring:
        key = ring.private(ring.make("Packages <packages@example.org>"))
        public = ring.public(ring.make("Somebody else <else@example.org>"))
        signed = {signing.KEY: key}
        succeeded(project.invoke("build-packages"))
        shutil.copytree(project.dist / TARGET / dist.PACKAGES, directory / "first-packages")
        succeeded(project.invoke("publish-repo", env=signed))
        shutil.copytree(project.dist / "repo", directory / "first")
        succeeded(project.invoke("build-packages", "--revision", "2"))
        succeeded(project.invoke("publish-repo", env=signed))
        shutil.copytree(project.dist / "repo", directory / "second")
        yield BuiltPackages(project, directory / "first", directory / "second", key, public, directory / "first-packages")  # fmt: skip
    remove(directory)


@pytest.fixture(scope="module")
@needs(*debianroot.NEEDS)
def shared_root() -> Iterator[Root]:
    """A Debian root for tests that install nothing."""
    with debian_root() as root:
        yield root


@pytest.fixture
@needs(*debianroot.NEEDS)
def root() -> Iterator[Root]:
    with debian_root() as root:
        yield root


def use(root: Root, repository: Path, url: str, key: str = "") -> None:
    """Configure apt as index.html describes, with the repository's key or another one."""
    root.write(KEY, key or (repository / "buildkit.asc").read_text())
    text = (repository / "deb" / "buildkit.sources").read_text()
    root.write(SOURCES, text.replace(URL, url))


def apt(root: Root, *args: str) -> str:
    return root.run("apt-get", "--quiet", "--yes", "-o", "APT::Update::Error-Mode=any", *args)


# Packages and repositories.

#: Prefix that runs a command with a restrictive umask.
CLOSED = ("sh", "-c", 'umask 077; exec "$@"', "sh")


def modes(directory: Path) -> set[tuple[bool, str]]:
    """The modes of all directories and files."""
    paths = [directory, *directory.rglob("*")]
    return {(path.is_dir(), f"{path.stat().st_mode & 0o7777:o}") for path in paths}


def test_repository_is_world_readable(built: BuiltPackages) -> None:
    public = {(True, "755"), (False, "644")}
    repository = built.project.dist / "repo"
    succeeded(built.project.invoke("publish-repo", "--unsigned", "--force", prefix=CLOSED))
    assert modes(repository) == public
    # An up-to-date repository that others cannot read gets its modes back.
    subprocess.run(["chmod", "-R", "go-rwx", repository], check=True)
    done = succeeded(built.project.invoke("publish-repo", "--unsigned"))
    assert "nothing has changed" in done.stderr
    assert modes(repository) == public


def test_packages_are_reproducible(built: BuiltPackages, tmp_path: Path) -> None:
    before = (built.packages / "SHA256SUMS").read_text().splitlines()[:4]
    # Another directory, number of processors and umask.
    other = Project(tmp_path / "a directory" / "checkout", {**built.project.env, "GOMAXPROCS": "1"})
    copy_checkout(other.root)
    subprocess.run(["chmod", "-R", "go-rwx", other.root], check=True)
    shutil.copytree(built.project.dist / TARGET, other.dist / TARGET, ignore=shutil.ignore_patterns(*dist.PARTS))  # fmt: skip
    succeeded(other.invoke("build-packages", prefix=CLOSED))
    packages = other.dist / TARGET / "packages"
    assert (packages / "SHA256SUMS").read_text().splitlines()[:4] == before
    again = other.invoke("build-packages", "--json")
    assert "nothing has changed" in succeeded(again).stderr
    assert json.loads(again.stdout)["package_version"].endswith("-1")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=packages, check=True)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path): filesystem.sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_packages_unchanged(
    built: BuiltPackages, number: signal.Signals
) -> None:
    packages = built.project.dist / TARGET / "packages"
    before = digests(packages)
    with built.project.started("build-packages", "--revision", "7") as run:
        run.wait_for("buildkit.deb …")
        done = run.end(number)
    assert done.code == (-9 if number is signal.SIGKILL else 130)
    assert digests(packages) == before
    assert eventually(
        lambda: not process.probe(["pgrep", "--full", f"{TARGET}.packages.staging"]).ok
    )
    # The next run removes the leftovers.
    assert "nothing has changed" in succeeded(built.project.invoke("build-packages", "--revision", "2")).stderr  # fmt: skip
    succeeded(built.project.invoke("build-packages", "--revision", "2", "--force"))
    assert not list(built.project.dist.glob(".*staging*"))


def _signing_homes() -> set[Path]:
    return set(Path("/dev/shm").glob("buildkit-signing-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_publish_removes_the_key(built: BuiltPackages, number: signal.Signals) -> None:
    before = digests(built.project.dist / "repo")
    other_homes = _signing_homes()
    signed = Project(built.project.root, {**built.project.env, signing.KEY: built.key})
    with signed.started("publish-repo", "--force") as run:
        run.wait_for("dnf repository …")
        # This run's home, and perhaps those of other runs, which end as well.
        homes = _signing_homes() - other_homes
        done = run.end(number)
    assert done.code == (-9 if number is signal.SIGKILL else 130)
    assert digests(built.project.dist / "repo") == before
    assert homes
    assert eventually(lambda: not any(home.exists() for home in homes))
    assert built.key.splitlines()[5] not in done.stderr


def test_errors_have_a_fix(built: BuiltPackages, tmp_path: Path) -> None:
    for code, words, reason in [
        (2, ("publish-repo",), "signing key"),
        (2, ("publish-repo", "--key", "/etc/passwd"), "--key"),
        (2, ("publish-repo", "--unsigned", "--url", "nowhere"), "--url"),
        (2, ("build-packages", "--revision", "0"), "--revision 0"),
        (2, ("build-packages", "--target", "linux-riscv64-rva22u64"), "linux-riscv64-rva22u64"),
    ]:
        done = built.project.invoke(*words)
        assert done.code == code, done.stderr
        error, fix = done.stderr.splitlines()[-2:]
        assert error.startswith("error: ")
        assert reason in error
        assert fix.startswith("  fix: ")


@pytest.mark.needs("lintian")
def test_lintian(built: BuiltPackages) -> None:
    debs = sorted(built.packages.glob("*.deb"))
    assert len(debs) == 2
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *debs],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# Arguments: a writable directory, and a command. rpmlint unpacks with cpio, which writes to
# the absolute names in nfpm's archives unless the wrapper below forbids it.
_SAFELY = r"""
mount --bind "$1" "$1"
mount -o remount,bind,ro /
export PATH="$1/bin:$PATH"
shift
exec "$@"
"""


@pytest.fixture
@needs("namespaces", "cpio")
def safely(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command that unpacks an .rpm; it can write to the test's directory only."""
    script(tmp_path / "bin" / "cpio", f'exec {shutil.which("cpio")} --no-absolute-filenames "$@"')
    # rpm stores its trusted keys here, too.
    (tmp_path / ".rpmmacros").write_text(f"%_dbpath {tmp_path}/db\n")
    env = {**process.environment(), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*process.namespaced(), "sh", "-euc", _SAFELY, "sh", tmp_path, *args],
            cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return run


@pytest.mark.needs("rpmlint")
def test_rpmlint(
    built: BuiltPackages, safely: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    rpms = sorted(built.first.glob("rpm/*/Packages/*.rpm"))
    assert len(rpms) == 2
    assert safely("rpmkeys", "--import", built.first / "buildkit.asc").returncode == 0
    done = safely("rpmlint", "-c", PACKAGING / "rpmlint.toml", *rpms)
    assert done.returncode == 0, done.stdout
    assert "0 errors, 0 warnings" in done.stdout
    checked = safely("rpmkeys", "--checksig", *rpms)
    assert checked.stdout.count("digests signatures OK") == 2, checked.stdout


def test_packages_contain_the_checked_binaries(
    built: BuiltPackages, tmp_path: Path, safely: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for deb in built.packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path / "deb"], check=True)
    (tmp_path / "rpm").mkdir()
    for rpm in built.packages.glob("*.rpm"):
        unpack = 'cd rpm; rpm2cpio "$1" | cpio --quiet -id'
        assert safely("sh", "-euc", unpack, "sh", rpm).returncode == 0
    manifest = json.loads((built.packages / "manifest.json").read_text())
    for form in ("deb", "rpm"):
        for name, sha256 in manifest["binaries"].items():
            directory = "usr/libexec/buildkit" if name == "rootlesskit" else "usr/bin"
            assert filesystem.sha256(tmp_path / form / directory / name) == sha256
        assert (tmp_path / form / "usr/share/doc/buildkit/buildkitd.cdx.json").is_file()


def test_every_program_has_a_man_page(built: BuiltPackages) -> None:
    (deb,) = built.packages.glob("buildkit_*.deb")
    listed = process.read(["dpkg-deb", "--contents", deb])
    programs = set(re.findall(r"\./usr/bin/(\S+)$", listed, re.MULTILINE))
    pages = set(re.findall(r"\./usr/share/man/man[18]/(\S+)\.[18]\.gz", listed))
    assert {"buildctl", "buildkitd"} <= programs <= pages


@pytest.mark.parametrize(
    ("command", "page"), [("buildctl", "buildctl.1"), ("buildkitd", "buildkitd.8")]
)
def test_man_pages_have_every_option(binaries: Path, command: str, page: str) -> None:
    text = (PACKAGING / "man" / page).read_text().replace("\\-", "-")

    def options(*words: str) -> set[str]:
        output = process.read([binaries / command, *words, "--help"])
        for sub in re.findall(
            r"^   ([a-z-]+)(?:, [a-z])?  ",
            output.partition("\nCOMMANDS:")[2].partition("\n\n")[0],
            re.MULTILINE,
        ):
            if sub != "help":
                found.update(options(*words, sub))
        return set(re.findall(r"^   (--[a-z-]+)", output, re.MULTILINE))

    found: set[str] = set()
    found |= options()
    assert len(found) > 20
    assert {option for option in found if f"\\fB{option}\\fR" not in text} == set()
    documented = set(re.findall(r"^\\fB(--[a-z-]+)\\fR", text, re.MULTILINE))
    assert documented <= found, "the page documents a removed option"


# apt.


def test_lifecycle_in_a_clean_debian(built: BuiltPackages, root: Root) -> None:
    with serving(built.first) as url:
        use(root, built.first, url)
        apt(root, "update")
        output = apt(root, "install", "buildkit", "buildkit-rootless")
    assert "unauthenticated" not in output.lower()
    manifest = json.loads((built.packages / "manifest.json").read_text())
    version = root.run("buildkitd", "--version")
    assert manifest["version"] in version
    assert manifest["revision"] in version
    assert root.run("dpkg", "--verify", "buildkit", "buildkit-rootless") == ""
    assert "buildkit:x:" in root.read("/etc/group")
    for unit in ("buildkit.service", "buildkit.socket"):
        assert root.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit}") == ""
    # A user's manager needs the runtime directory of a session.
    root.shell(
        "XDG_RUNTIME_DIR=/tmp systemd-analyze verify --user"
        " /usr/lib/systemd/user/buildkit-rootless.service"
    )
    assert root.exists("/etc/systemd/system/sockets.target.wants/buildkit.socket")
    assert not root.exists("/etc/systemd/system/multi-user.target.wants/buildkit.service")
    assert "drwx--x---" in root.shell(
        "systemd-tmpfiles --create buildkit.conf; ls -ld /run/buildkit"
    )

    # Build, and edit the configuration.
    build_something(root, manifest["binaries"]["buildctl"])
    state = "/var/lib/buildkit/cache.db"
    assert root.exists(state)
    edited = root.read("/etc/buildkit/buildkitd.toml") + '\n[log]\n  level = "debug"\n'
    root.write("/etc/buildkit/buildkitd.toml", edited)

    # Upgrade.
    with serving(built.second) as url:
        use(root, built.second, url)
        apt(root, "update")
        apt(root, "upgrade")
    assert root.run("dpkg-query", "--show", "--showformat=${Version}", "buildkit").endswith("-2")
    assert root.read("/etc/buildkit/buildkitd.toml") == edited
    assert root.exists(state)

    # Remove keeps the state; purge deletes it.
    apt(root, "remove", "buildkit")
    assert not root.exists("/usr/bin/buildkitd")
    assert root.exists("/etc/buildkit/buildkitd.toml")
    assert root.exists(state)
    apt(root, "purge", "buildkit", "buildkit-rootless")
    for gone in ("/etc/buildkit", "/var/lib/buildkit", "/etc/apparmor.d/buildkit-default",
                 "/etc/systemd/system/sockets.target.wants/buildkit.socket",
                 "/usr/lib/systemd/system/buildkit.service", "/usr/libexec/buildkit"):  # fmt: skip
        assert not root.exists(gone), gone
    assert "buildkit" not in root.run("dpkg-query", "--show", "--showformat=${Package} ${Status}\n")


def build_something(root: Root, sha256: str) -> None:
    """Build with a RUN step, confined as by the unit: capabilities and mounts."""
    unit = root.read("/usr/lib/systemd/system/buildkit.service")
    (dropped,) = re.findall(r"^CapabilityBoundingSet=~(.*)$", unit, re.MULTILINE)
    bounding = ",".join(f"-{name.removeprefix('CAP_').lower()}" for name in dropped.split())
    root.write(
        "/context/Dockerfile",
        'FROM scratch\nCOPY buildctl /buildctl\nRUN ["/buildctl", "--version"]\n',
    )
    shutil.copy(root.path / "usr/bin/buildctl", root.path / "context/buildctl")
    output = root.shell(
        f"""
        systemd-tmpfiles --create buildkit.conf
        for folder in /usr /etc; do
            mount --bind "$folder" "$folder"
            mount -o remount,bind,ro "$folder"
        done
        mount -t tmpfs -o mode=000 tmpfs /home
        setpriv --bounding-set {bounding} buildkitd --group buildkit >/tmp/log 2>&1 &
        for _ in $(seq 300); do buildctl debug workers >/dev/null 2>&1 && break; sleep 0.1; done
        buildctl debug workers
        stat --format '%U:%G %a' /run/buildkit/buildkitd.sock
        buildctl build --frontend dockerfile.v0 --local context=/context --local dockerfile=/context \
            --progress plain --output type=tar,dest=/tmp/out.tar || {{ cat /tmp/log; exit 1; }}
        tar --extract --to-stdout --file /tmp/out.tar buildctl | sha256sum
        kill %1
        wait
        """
    )
    assert "root:buildkit 660" in output
    assert "buildctl github.com/moby/buildkit" in output
    assert sha256 in output


CONTEXT = """
mkdir /srv/context
cp /usr/bin/buildctl /srv/context
printf 'FROM scratch\nCOPY buildctl /buildctl\nRUN ["/buildctl", "--version"]\n' >/srv/context/Dockerfile
"""
BUILD = (
    "buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0",
    "--local=context=/srv/context", "--local=dockerfile=/srv/context",
    "--output=type=tar,dest=/tmp/out.tar",
)  # fmt: skip


@pytest.mark.needs("systemd")
def test_lifecycle_under_systemd(built: BuiltPackages, root: Root) -> None:
    shutil.copytree(built.first, root.path / "srv/repository")
    with root.booted() as system:
        use(system, built.first, "file:/srv/repository")
        apt(system, "update")
        apt(system, "install", "buildkit")

        # The socket is active, for root and the group; the service is not.
        assert system.run("systemctl", "is-enabled", "buildkit.socket").strip() == "enabled"
        assert system.run("systemctl", "is-active", "buildkit.socket").strip() == "active"
        assert (
            system.attempt("systemctl", "is-active", "buildkit.service").output.strip()
            == "inactive"
        )
        system.shell(
            "useradd --create-home member; useradd --create-home other; usermod --append --groups buildkit member"
        )
        asked = ("buildctl", "debug", "workers")
        refused = system.attempt("runuser", "-u", "other", "--", *asked)
        assert refused.code != 0
        assert "permission denied" in refused.output

        # A client starts the service and builds, confined by the unit.
        assert "linux/" in system.run("runuser", "-u", "member", "--", *asked)
        assert system.run("systemctl", "is-active", "buildkit.service").strip() == "active"
        pid = system.run("systemctl", "show", "--value", "--property=MainPID", "buildkit").strip()
        status = system.read_inside(f"/proc/{pid}/status")
        assert "Seccomp:\t2" in status
        (bounding,) = re.findall(r"^CapBnd:\t(\w+)$", status, re.MULTILINE)
        assert not int(bounding, 16) & (1 << 16), "CAP_SYS_MODULE"
        system.shell(CONTEXT)
        output = system.run("runuser", "-u", "member", "--", *BUILD)
        assert "buildctl github.com/moby/buildkit" in output

        # Stop, start on demand, and a failed start.
        system.run("systemctl", "stop", "buildkit.service")
        assert (
            system.attempt("systemctl", "is-failed", "buildkit.service").output.strip()
            == "inactive"
        )
        assert "linux/" in system.run(*asked)
        good = system.read("/etc/buildkit/buildkitd.toml")
        system.write("/etc/buildkit/buildkitd.toml", "root = 1\n")
        assert system.attempt("systemctl", "restart", "buildkit.service").code != 0
        log = system.run("journalctl", "--unit=buildkit.service", "--no-pager")
        assert "Failed to start buildkit.service" in log
        system.write("/etc/buildkit/buildkitd.toml", good)
        system.run("systemctl", "reset-failed", "buildkit.service", "buildkit.socket")
        system.run("systemctl", "restart", "buildkit.socket", "buildkit.service")
        pid = system.run("systemctl", "show", "--value", "--property=MainPID", "buildkit").strip()

        # An upgrade restarts the service and keeps the socket disabled.
        system.run("systemctl", "disable", "--quiet", "buildkit.socket")
        shutil.rmtree(root.path / "srv/repository")
        shutil.copytree(built.second, root.path / "srv/repository")
        use(system, built.second, "file:/srv/repository")
        apt(system, "update")
        apt(system, "upgrade")
        again = system.run("systemctl", "show", "--value", "--property=MainPID", "buildkit").strip()
        assert again not in {"0", pid}
        assert (
            system.attempt("systemctl", "is-enabled", "buildkit.socket").output.strip()
            == "disabled"
        )

        # Purge stops the service and removes its state.
        apt(system, "purge", "buildkit")
        assert system.attempt("pgrep", "buildkitd").output == ""
        assert not system.exists("/var/lib/buildkit")
        left = system.run("systemctl", "list-units", "--all", "--no-legend", "buildkit*")
        assert left == ""


@pytest.mark.needs("systemd")
def test_rootless_service_under_systemd(built: BuiltPackages, root: Root) -> None:
    shutil.copytree(built.first, root.path / "srv/repository")
    # As on a machine without udev.
    with root.booted(KERNEL_MODE) as system:
        use(system, built.first, "file:/srv/repository")
        apt(system, "update")
        apt(system, "install", "buildkit-rootless")
        system.run("useradd", "--create-home", "--uid=1000", "member")
        system.run("loginctl", "enable-linger", "member")
        assert eventually(lambda: system.sees("/run/user/1000/systemd/private"))
        user = ("runuser", "-u", "member", "--", "env", "XDG_RUNTIME_DIR=/run/user/1000",
                "BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock")  # fmt: skip
        check = (*user, "buildkit-rootless-check", "--quiet")
        start = (*user, "systemctl", "--user", "start", "buildkit-rootless.service")

        # The package opens the devices. The check reports a closed device and the fix.
        modes = ("stat", "--format=%a", "/dev/net/tun", "/dev/fuse")
        assert system.run(*modes).split() == [UDEV_MODE] * 2
        system.run("chmod", KERNEL_MODE, "/dev/net/tun")
        refused = system.attempt(*check)
        assert refused.code == 1
        error, fix = refused.output.splitlines()
        assert "/dev/net/tun cannot be opened: Permission denied" in error
        assert system.attempt(*start).code != 0
        assert error in system.run("journalctl", "--no-pager", "--output=cat", "_UID=1000")
        system.shell(fix.partition("as root: ")[2])
        system.run(*user, "systemctl", "--user", "reset-failed", "buildkit-rootless.service")

        assert system.run(*check) == ""
        done = system.attempt(*start)
        assert done.code == 0, system.run("journalctl", "--no-pager", "--lines=60")
        system.shell(CONTEXT)
        assert "buildctl github.com/moby/buildkit" in system.run(*user, *BUILD)
        owner = system.run("stat", "--format=%U", "/home/member/.local/share/buildkit")
        assert owner.strip() == "member"
        system.run(*user, "systemctl", "--user", "stop", "buildkit-rootless.service")
        left = system.attempt(
            *user, "systemctl", "--user", "is-failed", "buildkit-rootless.service"
        )
        assert left.output.strip() == "inactive"
        assert system.attempt("pgrep", "--uid=member", "buildkitd|rootlesskit").output == ""


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def _deb(repository: Path) -> Path:
    (deb,) = repository.glob("deb/pool/main/b/buildkit/buildkit_*.deb")
    return deb


def tamper_deb(repository: Path) -> None:
    deb = _deb(repository)
    content = bytearray(deb.read_bytes())
    content[len(content) // 2] ^= 1
    deb.write_bytes(content)


def tamper_packages(repository: Path) -> None:
    """Change a program and its index entry."""
    tamper_deb(repository)
    for index in repository.glob("deb/dists/stable/main/*/Packages"):
        fields = re.sub(r"SHA512: .*\n", "", index.read_text())
        fields = re.sub(
            r"(Filename: \S*/buildkit_.*\nSize: \d+\nSHA256: )\S+",
            rf"\g<1>{filesystem.sha256(_deb(repository))}", fields,
        )  # fmt: skip
        assert filesystem.sha256(_deb(repository)) in fields
        index.write_text(fields)
        index.with_name("Packages.gz").write_bytes(gzip.compress(fields.encode()))
        index.with_name("Packages.xz").unlink()
        shutil.rmtree(index.parent / "by-hash")


def tamper_release(repository: Path) -> None:
    change(repository / "deb/dists/stable/InRelease", b"Label: BuildKit", b"Label: Buildkit")


def unsign(repository: Path) -> None:
    for name in ("InRelease", "Release.gpg"):
        (repository / "deb/dists/stable" / name).unlink()


@pytest.mark.parametrize(
    ("tamper", "step", "reason"),
    [
        (tamper_deb, "install", "Hash Sum mismatch"),
        (tamper_packages, "update", "File has unexpected size|Hash Sum mismatch|404"),
        (tamper_release, "update", "(?i)bad signature|not signed|verification"),
        (unsign, "update", "not signed"),
    ],
)  # fmt: skip
def test_apt_refuses_a_tampered_repository(
    built: BuiltPackages,
    shared_root: Root,
    tmp_path: Path,
    tamper: Callable[[Path], None],
    step: str,
    reason: str,
) -> None:
    repository = Path(shutil.copytree(built.first, tmp_path / "repository"))
    tamper(repository)
    with serving(repository) as url:
        use(shared_root, repository, url)
        quiet = ("apt-get", "--quiet", "--yes", "-o", "APT::Update::Error-Mode=any")
        if step == "install":
            shared_root.run(*quiet, "update")
            done = shared_root.attempt(*quiet, "install", "buildkit")
        else:
            done = shared_root.attempt(*quiet, "update")
    assert done.code == 100
    assert re.search(reason, done.output), done.output
    assert not shared_root.exists("/usr/bin/buildkitd")


def test_apt_refuses_another_key(built: BuiltPackages, shared_root: Root) -> None:
    with serving(built.first) as url:
        use(shared_root, built.first, url, key=built.public)
        done = shared_root.attempt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
    assert done.code == 100
    assert re.search("(?i)no_pubkey|missing key|not signed|verif", done.output), done.output


# Other files of the packages.


@pytest.fixture(scope="module")
@needs(*debianroot.NEEDS)
def installed(built: BuiltPackages) -> Iterator[Root]:
    """A Debian root with the packages, for tests that do not change it."""
    with debian_root() as root:
        with serving(built.first) as url:
            use(root, built.first, url)
            apt(root, "update")
            apt(root, "install", "buildkit", "buildkit-rootless")
        yield root


COMPLETED = {
    "buildctl pru": {"prune", "prune-histories"},
    "buildctl --tlsc": {"--tlscacert", "--tlscert"},
    "buildctl build --pro": {"--progress", "--proxy-network"},
    "buildctl build --progress p": {"plain"},
    "buildctl debug wo": {"workers"},
    "buildctl --debug debug logs --tr": {"--trace"},
}


@pytest.mark.parametrize(("typed", "expected"), COMPLETED.items())
def test_bash_completes(installed: Root, typed: str, expected: set[str]) -> None:
    output = installed.shell(
        f"""
        source /usr/share/bash-completion/completions/buildctl
        COMP_WORDS=({typed}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _buildctl
        printf '%s\n' "${{COMPREPLY[@]}}"
        """
    )
    assert set(output.split()) == expected


@pytest.mark.parametrize(("typed", "expected"), COMPLETED.items())
def test_fish_completes(installed: Root, typed: str, expected: set[str]) -> None:
    output = installed.run("fish", "--command", f"complete --do-complete '{typed}'")
    # fish also offers options of other subcommands.
    assert expected <= {line.partition("\t")[0] for line in output.splitlines()}


def test_zsh_completes(installed: Root) -> None:
    output = installed.run(
        "zsh", "-fc",
        r"""
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "TERM=dumb; autoload -Uz compinit; compinit -u; print read''y"
        zpty -r -m shell line '*ready*'
        zpty -w -n shell $'buildctl debug mon\t'
        zpty -r -m shell line '*buildctl debug monitor*'
        print -r -- "$line"
        """,
    )  # fmt: skip
    assert "buildctl debug monitor" in output


def test_apparmor_profiles_load(installed: Root) -> None:
    installed.run(
        "apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/buildkit-default"
    )
    # The package contains rootlesskit's profile only with the bundle.
    installed.write("/tmp-profile", (PACKAGING / "apparmor" / "buildkit-rootlesskit").read_text())
    installed.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "/tmp-profile")


def test_man_pages_have_no_warnings(installed: Root) -> None:
    listed = installed.run("dpkg", "--listfiles", "buildkit", "buildkit-rootless")
    pages = re.findall(r"/man/man\d/(\S+)\.\d\.gz$", listed, re.MULTILINE)
    assert {"buildctl", "buildkitd", "buildkitd.toml", "buildkit-rootless-check"} <= set(pages)
    for page in pages:
        output = installed.shell(f"man --warnings {page} 2>&1 >/dev/null")
        assert [line for line in output.splitlines() if "break line" not in line] == []


def test_man_page_has_every_configuration_key(upstream_project: Project, pinned_go: Path) -> None:
    where = process.read(
        [str(pinned_go), "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit"],
        cwd=upstream_project.root / "pins" / "upstream",
        env={**os.environ, "GOFLAGS": "-mod=mod"},
    ).strip()
    text = (Path(where) / "docs" / "buildkitd.toml.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    keys = set(re.findall(r"^ *([A-Za-z-]+) ?=", example, re.MULTILINE))
    page = (PACKAGING / "man" / "buildkitd.toml.5").read_text().replace("\\-", "-")
    page = re.sub(r"\\f[BIR]", " ", page)
    assert len(keys) > 40
    assert {key for key in keys if not re.search(rf"\b{key}\b", page)} == set()


def test_service_exposure(installed: Root) -> None:
    output = installed.run("systemd-analyze", "security", "--offline=true", "buildkit.service")
    (score,) = re.findall(r"exposure level for buildkit.service: ([\d.]+)", output)
    assert float(score) <= 7.5


def test_rootless_check(installed: Root) -> None:
    check = "runuser -u somebody -- env XDG_RUNTIME_DIR=/tmp buildkit-rootless-check"
    installed.run("useradd", "--create-home", "somebody")
    try:
        assert "ok    newuidmap is installed" in installed.run(*check.split())
        assert installed.run(*check.split(), "--quiet") == ""
        subuid = installed.read("/etc/subuid")
        installed.write("/etc/subuid", "")
        done = installed.attempt(*check.split(), "--quiet")
        installed.write("/etc/subuid", subuid)
        assert done.code == 1
        assert "error: /etc/subuid has no 65536 ids for somebody" in done.output
        assert "fix: as root: usermod --add-subuids" in done.output
        assert installed.attempt(*check.split(), "--what").code == 2
        assert installed.attempt("buildkit-rootless-check", "--help").code == 0
        assert "error: you are root" in installed.attempt("buildkit-rootless-check").output
    finally:
        installed.run("userdel", "--remove", "somebody")


# dnf.

#: Stands in for Fedora's packages; the root has Debian's.
STAND_IN = """Name: stand-in
Version: 1
Release: 1
Summary: Dependencies of the packages
License: none
BuildArch: noarch
Provides: /bin/sh, iproute, iptables, runc, rootlesskit, shadow-utils, slirp4netns, systemd
AutoReqProv: no
%description
%files
"""


@pytest.fixture(scope="module")
@needs("createrepo_c", "dnf", "rpmsign")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a package that provides every dependency."""
    directory = tmp_path_factory.mktemp("stand-in")
    (directory / "stand-in.spec").write_text(STAND_IN)
    commands: list[list[str | Path]] = [
        ["rpmbuild", "-bb", "--define", f"_topdir {directory}", directory / "stand-in.spec"],
        ["createrepo_c", directory / "RPMS"],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return directory / "RPMS"


@dataclass(frozen=True)
class Dnf:
    """dnf that installs into a root directory.

    Args:
        root: the root directory.
        directory: directory for settings and cache.
        stand_in: the repository with the dependencies.
    """

    root: Root
    directory: Path
    stand_in: Path

    def attempt(
        self, repository: Path, url: str, *args: str, key: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run dnf as index.html describes, with the repository's key or another one."""
        text = (repository / "rpm" / "buildkit.repo").read_text()
        text = text.replace(URL, url)
        if key:
            (self.directory / "other.asc").write_text(key)
            text = re.sub("gpgkey=.*", f"gpgkey=file://{self.directory}/other.asc", text)
        text += f"[stand-in]\nname=stand-in\nbaseurl=file://{self.stand_in}\ngpgcheck=0\n"
        (self.directory / "repos").mkdir(exist_ok=True)
        (self.directory / "repos" / "buildkit.repo").write_text(text)
        # namespaced: ends the GnuPG agent that dnf starts.
        return subprocess.run(
            [*process.namespaced(), "dnf", "--assumeyes", f"--installroot={self.root.path}", "--releasever=1",
             f"--setopt=reposdir={self.directory}/repos", f"--setopt=cachedir={self.directory}/cache",
             "--setopt=install_weak_deps=False", "--setopt=metadata_expire=0", *args],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def rpm(self, *args: str) -> str:
        """Run rpm on the root; return its output."""
        return process.read(["rpm", f"--root={self.root.path}", *args])


@pytest.fixture
def dnf(root: Root, tmp_path: Path, stand_in: Path) -> Dnf:
    return Dnf(root, tmp_path, stand_in)


def test_lifecycle_with_dnf(built: BuiltPackages, dnf: Dnf) -> None:
    root = dnf.root
    with serving(built.first) as url:
        done = dnf.attempt(built.first, url, "install", "buildkit", "buildkit-rootless")
        assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((built.packages / "manifest.json").read_text())
    assert manifest["version"] in root.run("buildkitd", "--version")
    assert dnf.rpm("--verify", "--nodeps", "--nouser", "--nogroup", "buildkit") == ""
    assert "buildkit:x:" in root.read("/etc/group")
    assert dnf.rpm("--query", "--configfiles", "buildkit").split() == [
        "/etc/buildkit/buildkitd.toml"
    ]
    edited = root.read("/etc/buildkit/buildkitd.toml") + "# ours\n"
    root.write("/etc/buildkit/buildkitd.toml", edited)
    root.write("/var/lib/buildkit/buildkitd.lock", "")

    with serving(built.second) as url:
        done = dnf.attempt(built.second, url, "upgrade")
        assert done.returncode == 0, done.stdout + done.stderr
        assert dnf.rpm("--query", "--queryformat=%{RELEASE}", "buildkit") == "2"
        assert root.read("/etc/buildkit/buildkitd.toml") == edited
        done = dnf.attempt(built.second, url, "remove", "buildkit")
        assert done.returncode == 0, done.stdout + done.stderr
    assert not root.exists("/usr/bin/buildkitd")
    assert not root.exists("/usr/bin/buildkit-rootless-check"), "depends on buildkit"
    assert root.read("/etc/buildkit/buildkitd.toml.rpmsave") == edited
    assert root.exists("/var/lib/buildkit/buildkitd.lock")


def _rpm(repository: Path) -> Path:
    (rpm,) = repository.glob("rpm/*/Packages/buildkit-[0-9]*.rpm")
    return rpm


def tamper_rpm(repository: Path) -> None:
    rpm = _rpm(repository)
    content = bytearray(rpm.read_bytes())
    content[len(content) // 2] ^= 1
    rpm.write_bytes(content)


def tamper_repomd(repository: Path) -> None:
    (repomd,) = repository.glob("rpm/*/repodata/repomd.xml")
    change(repomd, b"<revision>", b"<revision>1")


def reindexed(repository: Path) -> None:
    """Change a program and rebuild the indexes without the key."""
    tamper_rpm(repository)
    subprocess.run(["createrepo_c", "--quiet", _rpm(repository).parents[1]], check=True)


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (tamper_rpm, "(?i)checksum|digest"),
        (tamper_repomd, "(?i)gpg|signature"),
        (reindexed, "(?i)gpg|signature|404"),
    ],
)
def test_dnf_refuses_a_tampered_repository(
    built: BuiltPackages, dnf: Dnf, tmp_path: Path, tamper: Callable[[Path], None], reason: str
) -> None:
    repository = Path(shutil.copytree(built.first, tmp_path / "repository"))
    tamper(repository)
    with serving(repository) as url:
        done = dnf.attempt(repository, url, "install", "buildkit")
    assert done.returncode == 1
    assert re.search(reason, done.stdout + done.stderr), done.stdout + done.stderr
    assert not dnf.root.exists("/usr/bin/buildkitd")


def test_dnf_refuses_another_key(built: BuiltPackages, dnf: Dnf) -> None:
    with serving(built.first) as url:
        done = dnf.attempt(built.first, url, "install", "buildkit", key=built.public)
    assert done.returncode == 1
    assert re.search("(?i)gpg|signature|key", done.stdout + done.stderr), done.stderr
    assert not dnf.root.exists("/usr/bin/buildkitd")
