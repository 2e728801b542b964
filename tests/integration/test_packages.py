"""Packages for real: made of the real binaries, served, installed, upgraded, removed, refused."""

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

from buildkit_riscv64 import dist, process, storage
from buildkit_riscv64.arch import Architecture, Target
from buildkit_riscv64.automation import signing

from ..loopback import serving
from ..processes import eventually
from .debianroot import Root, debian_root
from .keys import Keyring
from .miniature import Project, copy_checkout, remove, script, succeeded

pytestmark = pytest.mark.integration

TARGET = Target.here().name
ARCH = Architecture.here()
SOURCES = "/etc/apt/sources.list.d/buildkit.sources"
KEY = "/etc/apt/keyrings/buildkit.asc"
PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


@dataclass(frozen=True)
class Made:
    """What was made once for all tests.

    Args:
        project: the checkout it was made in.
        first: repositories of revision 1.
        second: repositories of revision 2.
        key: the private key that signed both.
        public: another's public key.
        packages: the folder of packages of revision 1.
    """

    project: Project
    first: Path
    second: Path
    key: str
    public: str
    packages: Path


@pytest.fixture(scope="module")
def made(upstream_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("packages")
    copy_checkout(folder / "checkout")
    unwanted = {"CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", signing.KEY, signing.PASSPHRASE}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    project = Project(folder / "checkout", env)
    ignored = shutil.ignore_patterns(*dist.PARTS)
    shutil.copytree(upstream_target, project.dist / TARGET, ignore=ignored)
    with Keyring(tmp_path_factory.mktemp("ring")) as ring:
        key = ring.private(ring.make("Packages <packages@example.org>"))
        public = ring.public(ring.make("Somebody else <else@example.org>"))
        signed = {signing.KEY: key}
        succeeded(project.invoke("build-packages"))
        shutil.copytree(project.dist / TARGET / dist.PACKAGES, folder / "first-packages")
        succeeded(project.invoke("publish-repo", env=signed))
        shutil.copytree(project.dist / "repo", folder / "first")
        succeeded(project.invoke("build-packages", "--revision", "2"))
        succeeded(project.invoke("publish-repo", env=signed))
        shutil.copytree(project.dist / "repo", folder / "second")
        yield Made(project, folder / "first", folder / "second", key, public, folder / "first-packages")  # fmt: skip
    remove(folder)


@pytest.fixture(scope="module")
def shared_root() -> Iterator[Root]:
    """A Debian for tests that install nothing in it."""
    with debian_root() as root:
        yield root


@pytest.fixture
def root() -> Iterator[Root]:
    with debian_root() as root:
        yield root


def use(root: Root, repository: Path, url: str, key: str = "") -> None:
    """Do what index.html says, with the key that is there, or another."""
    root.write(KEY, key or (repository / "buildkit.asc").read_text())
    text = (repository / "deb" / "buildkit.sources").read_text()
    root.write(SOURCES, text.replace("https://packages.example.org", url))


def apt(root: Root, *args: str) -> str:
    return root.run("apt-get", "--quiet", "--yes", "-o", "APT::Update::Error-Mode=any", *args)


# What is made.


def test_the_same_binaries_make_the_same_packages(made: Made, tmp_path: Path) -> None:
    before = (made.packages / "SHA256SUMS").read_text().splitlines()[:4]
    # Elsewhere, by another number of processors, with another umask, and none of our settings.
    other = Project(tmp_path / "a folder" / "checkout", {**made.project.env, "GOMAXPROCS": "1"})
    copy_checkout(other.root)
    shutil.copytree(made.project.dist / TARGET, other.dist / TARGET, ignore=shutil.ignore_patterns(*dist.PARTS))  # fmt: skip
    succeeded(other.invoke("build-packages", prefix=("sh", "-c", 'umask 077; exec "$@"', "sh")))
    packages = other.dist / TARGET / "packages"
    assert (packages / "SHA256SUMS").read_text().splitlines()[:4] == before
    again = other.invoke("build-packages", "--json")
    assert "nothing has changed" in succeeded(again).stderr
    assert json.loads(again.stdout)["package_version"].endswith("-1")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=packages, check=True)


def digests(folder: Path) -> dict[str, str]:
    return {str(path): storage.sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_what_was_there(made: Made, number: signal.Signals) -> None:
    packages = made.project.dist / TARGET / "packages"
    before = digests(packages)
    with made.project.started("build-packages", "--revision", "7") as run:
        run.wait_for("buildkit.deb …")
        done = run.end(number)
    assert done.code == (-9 if number is signal.SIGKILL else 130)
    assert digests(packages) == before
    assert eventually(
        lambda: not process.probe(["pgrep", "--full", f"{TARGET}.packages.staging"]).ok
    )
    # The next one removes what was left, and is not kept from its work.
    assert "nothing has changed" in succeeded(made.project.invoke("build-packages", "--revision", "2")).stderr  # fmt: skip
    succeeded(made.project.invoke("build-packages", "--revision", "2", "--force"))
    assert not list(made.project.dist.glob(".*staging*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_repository_leaves_no_key(made: Made, number: signal.Signals) -> None:
    before = digests(made.project.dist / "repo")
    homes = set(Path("/dev/shm").glob("buildkit-signing-*"))
    signed = Project(made.project.root, {**made.project.env, signing.KEY: made.key})
    with signed.started("publish-repo", "--force") as run:
        run.wait_for("for dnf …")
        done = run.end(number)
    assert done.code == (-9 if number is signal.SIGKILL else 130)
    assert digests(made.project.dist / "repo") == before
    assert eventually(lambda: set(Path("/dev/shm").glob("buildkit-signing-*")) == homes)
    assert made.key.splitlines()[5] not in done.stderr


def test_refusals_are_one_line_and_a_fix(made: Made, tmp_path: Path) -> None:
    for code, words, reason in [
        (2, ("publish-repo",), "there is no key to sign with"),
        (2, ("publish-repo", "--key", "/etc/passwd"), "is no armored private key"),
        (2, ("publish-repo", "--unsigned", "--url", "nowhere"), "is no address"),
        (2, ("build-packages", "--revision", "0"), "is no revision"),
        (2, ("build-packages", "--target", "linux-riscv64-rva22u64"), "does not run on every"),
    ]:
        done = made.project.invoke(*words)
        assert done.code == code, done.stderr
        error, fix = done.stderr.splitlines()[-2:]
        assert error.startswith("error: ")
        assert reason in error
        assert fix.startswith("  fix: ")


def test_lintian(made: Made) -> None:
    debs = sorted(made.packages.glob("*.deb"))
    assert len(debs) == 2
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *debs],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# Arguments: a folder, and a command. All else is read-only: rpmlint unpacks by cpio, which
# follows the absolute names in nfpm's archives, were it not for our own cpio.
_SAFELY = r"""
mount --bind "$1" "$1"
mount -o remount,bind,ro /
export PATH="$1/bin:$PATH"
shift
exec "$@"
"""


@pytest.fixture
def safely(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command that unpacks an .rpm, where it can write to the test's folder alone."""
    script(tmp_path / "bin" / "cpio", f'exec {shutil.which("cpio")} --no-absolute-filenames "$@"')
    # rpm, too, is to keep the keys that it trusts in here.
    (tmp_path / ".rpmmacros").write_text(f"%_dbpath {tmp_path}/db\n")
    env = {**process.environment(), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*process.namespaced(), "sh", "-euc", _SAFELY, "sh", tmp_path, *args],
            cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return run


def test_rpmlint(made: Made, safely: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    rpms = sorted(made.first.glob("rpm/*/Packages/*.rpm"))
    assert len(rpms) == 2
    assert safely("rpmkeys", "--import", made.first / "buildkit.asc").returncode == 0
    done = safely("rpmlint", "-c", PACKAGING / "rpmlint.toml", *rpms)
    assert done.returncode == 0, done.stdout
    assert "0 errors, 0 warnings" in done.stdout
    checked = safely("rpmkeys", "--checksig", *rpms)
    assert checked.stdout.count("digests signatures OK") == 2, checked.stdout


def test_the_binaries_are_those_that_were_proved(
    made: Made, tmp_path: Path, safely: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for deb in made.packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path / "deb"], check=True)
    (tmp_path / "rpm").mkdir()
    for rpm in made.packages.glob("*.rpm"):
        unpack = 'cd rpm; rpm2cpio "$1" | cpio --quiet -id'
        assert safely("sh", "-euc", unpack, "sh", rpm).returncode == 0
    manifest = json.loads((made.packages / "manifest.json").read_text())
    for form in ("deb", "rpm"):
        for name, sha256 in manifest["binaries"].items():
            place = "usr/libexec/buildkit" if name == "rootlesskit" else "usr/bin"
            assert storage.sha256(tmp_path / form / place / name) == sha256
        assert (tmp_path / form / "usr/share/doc/buildkit/buildkitd.cdx.json").is_file()


def test_every_program_has_a_page(made: Made) -> None:
    (deb,) = made.packages.glob("buildkit_*.deb")
    listed = process.read(["dpkg-deb", "--contents", deb])
    programs = set(re.findall(r"\./usr/bin/(\S+)$", listed, re.MULTILINE))
    pages = set(re.findall(r"\./usr/share/man/man[18]/(\S+)\.[18]\.gz", listed))
    assert {"buildctl", "buildkitd"} <= programs <= pages


@pytest.mark.parametrize(
    ("command", "page"), [("buildctl", "buildctl.1"), ("buildkitd", "buildkitd.8")]
)
def test_pages_have_every_option(binaries: Path, command: str, page: str) -> None:
    text = (PACKAGING / "man" / page).read_text().replace("\\-", "-")

    def options(*words: str) -> set[str]:
        said = process.read([binaries / command, *words, "--help"])
        for sub in re.findall(
            r"^   ([a-z-]+)(?:, [a-z])?  ",
            said.partition("\nCOMMANDS:")[2].partition("\n\n")[0],
            re.MULTILINE,
        ):
            if sub != "help":
                found.update(options(*words, sub))
        return set(re.findall(r"^   (--[a-z-]+)", said, re.MULTILINE))

    found: set[str] = set()
    found |= options()
    assert len(found) > 20
    assert {option for option in found if f"\\fB{option}\\fR" not in text} == set()
    documented = set(re.findall(r"^\\fB(--[a-z-]+)\\fR", text, re.MULTILINE))
    assert documented <= found, "an option that there is not any more"


# apt.


def test_life_in_a_clean_debian(made: Made, root: Root) -> None:
    with serving(made.first) as url:
        use(root, made.first, url)
        apt(root, "update")
        said = apt(root, "install", "buildkit", "buildkit-rootless")
    assert "unauthenticated" not in said.lower()
    manifest = json.loads((made.packages / "manifest.json").read_text())
    version = root.run("buildkitd", "--version")
    assert manifest["version"] in version
    assert manifest["revision"] in version
    assert root.run("dpkg", "--verify", "buildkit", "buildkit-rootless") == ""
    assert "buildkit:x:" in root.read("/etc/group")
    for unit in ("buildkit.service", "buildkit.socket"):
        assert root.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit}") == ""
    # As a user's manager reads it; that needs a folder which a session would have.
    root.shell(
        "XDG_RUNTIME_DIR=/tmp systemd-analyze verify --user"
        " /usr/lib/systemd/user/buildkit-rootless.service"
    )
    assert root.exists("/etc/systemd/system/sockets.target.wants/buildkit.socket")
    assert not root.exists("/etc/systemd/system/multi-user.target.wants/buildkit.service")
    assert "drwx--x---" in root.shell(
        "systemd-tmpfiles --create buildkit.conf; ls -ld /run/buildkit"
    )

    # It is used, and somebody changes its configuration.
    build_something(root, manifest["binaries"]["buildctl"])
    state = "/var/lib/buildkit/cache.db"
    assert root.exists(state)
    edited = root.read("/etc/buildkit/buildkitd.toml") + '\n[log]\n  level = "debug"\n'
    root.write("/etc/buildkit/buildkitd.toml", edited)

    # A new revision comes.
    with serving(made.second) as url:
        use(root, made.second, url)
        apt(root, "update")
        apt(root, "upgrade")
    assert root.run("dpkg-query", "--show", "--showformat=${Version}", "buildkit").endswith("-2")
    assert root.read("/etc/buildkit/buildkitd.toml") == edited
    assert root.exists(state)

    # It goes, and its state stays; then that goes, too.
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
    """A build with a RUN, by a daemon as the unit confines it: its capabilities, its mounts."""
    unit = root.read("/usr/lib/systemd/system/buildkit.service")
    (dropped,) = re.findall(r"^CapabilityBoundingSet=~(.*)$", unit, re.MULTILINE)
    bounding = ",".join(f"-{name.removeprefix('CAP_').lower()}" for name in dropped.split())
    root.write(
        "/context/Dockerfile",
        'FROM scratch\nCOPY buildctl /buildctl\nRUN ["/buildctl", "--version"]\n',
    )
    shutil.copy(root.path / "usr/bin/buildctl", root.path / "context/buildctl")
    said = root.shell(
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
    assert "root:buildkit 660" in said
    assert "buildctl github.com/moby/buildkit" in said
    assert sha256 in said


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


def test_life_under_systemd(made: Made, root: Root) -> None:
    shutil.copytree(made.first, root.path / "srv/repository")
    with root.booted() as system:
        use(system, made.first, "file:/srv/repository")
        apt(system, "update")
        apt(system, "install", "buildkit")

        # The socket is there, for root and the group; nothing else runs.
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

        # Whoever asks starts it, and builds, confined as the unit says.
        assert "linux/" in system.run("runuser", "-u", "member", "--", *asked)
        assert system.run("systemctl", "is-active", "buildkit.service").strip() == "active"
        pid = system.run("systemctl", "show", "--value", "--property=MainPID", "buildkit").strip()
        status = system.read_inside(f"/proc/{pid}/status")
        assert "Seccomp:\t2" in status
        (bounding,) = re.findall(r"^CapBnd:\t(\w+)$", status, re.MULTILINE)
        assert not int(bounding, 16) & (1 << 16), "CAP_SYS_MODULE"
        system.shell(CONTEXT)
        said = system.run("runuser", "-u", "member", "--", *BUILD)
        assert "buildctl github.com/moby/buildkit" in said

        # It ends when it is asked to, and comes back when it is needed; a mistake is told.
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

        # An upgrade restarts it; who has disabled the socket keeps it so.
        system.run("systemctl", "disable", "--quiet", "buildkit.socket")
        shutil.rmtree(root.path / "srv/repository")
        shutil.copytree(made.second, root.path / "srv/repository")
        use(system, made.second, "file:/srv/repository")
        apt(system, "update")
        apt(system, "upgrade")
        again = system.run("systemctl", "show", "--value", "--property=MainPID", "buildkit").strip()
        assert again not in {"0", pid}
        assert (
            system.attempt("systemctl", "is-enabled", "buildkit.socket").output.strip()
            == "disabled"
        )

        # It ends with the package, and leaves nothing when that is purged.
        apt(system, "purge", "buildkit")
        assert system.attempt("pgrep", "buildkitd").output == ""
        assert not system.exists("/var/lib/buildkit")
        left = system.run("systemctl", "list-units", "--all", "--no-legend", "buildkit*")
        assert left == ""


def test_a_user_s_own_under_systemd(made: Made, root: Root) -> None:
    shutil.copytree(made.first, root.path / "srv/repository")
    with root.booted() as system:
        use(system, made.first, "file:/srv/repository")
        apt(system, "update")
        apt(system, "install", "buildkit-rootless")
        system.run("useradd", "--create-home", "--uid=1000", "member")
        system.run("loginctl", "enable-linger", "member")
        assert eventually(lambda: system.sees("/run/user/1000/systemd/private"))
        user = ("runuser", "-u", "member", "--", "env", "XDG_RUNTIME_DIR=/run/user/1000",
                "BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock")  # fmt: skip
        assert system.run(*user, "buildkit-rootless-check", "--quiet") == ""
        done = system.attempt(*user, "systemctl", "--user", "start", "buildkit-rootless.service")
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
    """Another program, and the index changed to suit."""
    tamper_deb(repository)
    for index in repository.glob("deb/dists/stable/main/*/Packages"):
        fields = re.sub(r"SHA512: .*\n", "", index.read_text())
        fields = re.sub(
            r"(Filename: \S*/buildkit_.*\nSize: \d+\nSHA256: )\S+",
            rf"\g<1>{storage.sha256(_deb(repository))}", fields,
        )  # fmt: skip
        assert storage.sha256(_deb(repository)) in fields
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
    made: Made, shared_root: Root, tmp_path: Path, tamper: Callable[[Path], None], step: str, reason: str
) -> None:  # fmt: skip
    repository = Path(shutil.copytree(made.first, tmp_path / "repository"))
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


def test_apt_refuses_another_s_key(made: Made, shared_root: Root) -> None:
    with serving(made.first) as url:
        use(shared_root, made.first, url, key=made.public)
        done = shared_root.attempt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
    assert done.code == 100
    assert re.search("(?i)no_pubkey|missing key|not signed|verif", done.output), done.output


# What else is in there.


@pytest.fixture(scope="module")
def installed(made: Made) -> Iterator[Root]:
    """A Debian with the packages, for tests that leave it as it is."""
    with debian_root() as root:
        with serving(made.first) as url:
            use(root, made.first, url)
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
    said = installed.shell(
        f"""
        source /usr/share/bash-completion/completions/buildctl
        COMP_WORDS=({typed}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _buildctl
        printf '%s\n' "${{COMPREPLY[@]}}"
        """
    )
    assert set(said.split()) == expected


@pytest.mark.parametrize(("typed", "expected"), COMPLETED.items())
def test_fish_completes(installed: Root, typed: str, expected: set[str]) -> None:
    said = installed.run("fish", "--command", f"complete --do-complete '{typed}'")
    # Options that another place of the command line has, it knows for all of them.
    assert expected <= {line.partition("\t")[0] for line in said.splitlines()}


def test_zsh_completes(installed: Root) -> None:
    said = installed.run(
        "zsh", "-fc",
        r"""
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "TERM=dumb; autoload -Uz compinit; compinit -u"
        sleep 2
        zpty -w -n shell $'buildctl debug mon\t'
        sleep 3
        while zpty -r -t shell line; do print -r -- "$line"; done
        """,
    )  # fmt: skip
    assert "buildctl debug monitor" in said


def test_profiles_of_apparmor_are_good(installed: Root) -> None:
    installed.run(
        "apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/buildkit-default"
    )
    # Only with the bundle is our rootlesskit in the package; its profile has to be good anyway.
    installed.write("/tmp-profile", (PACKAGING / "apparmor" / "buildkit-rootlesskit").read_text())
    installed.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "/tmp-profile")


def test_pages_are_shown_without_a_warning(installed: Root) -> None:
    listed = installed.run("dpkg", "--listfiles", "buildkit", "buildkit-rootless")
    pages = re.findall(r"/man/man\d/(\S+)\.\d\.gz$", listed, re.MULTILINE)
    assert {"buildctl", "buildkitd", "buildkitd.toml", "buildkit-rootless-check"} <= set(pages)
    for page in pages:
        said = installed.shell(f"man --warnings {page} 2>&1 >/dev/null")
        assert [line for line in said.splitlines() if "break line" not in line] == []


def test_the_page_has_every_key_of_the_configuration(upstream_project: Project) -> None:
    where = process.read(
        ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit"],
        cwd=upstream_project.root / "upstream",
        env={**os.environ, "GOFLAGS": "-mod=mod"},
    ).strip()
    text = (Path(where) / "docs" / "buildkitd.toml.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    keys = set(re.findall(r"^ *([A-Za-z-]+) ?=", example, re.MULTILINE))
    page = (PACKAGING / "man" / "buildkitd.toml.5").read_text().replace("\\-", "-")
    page = re.sub(r"\\f[BIR]", " ", page)
    assert len(keys) > 40
    assert {key for key in keys if not re.search(rf"\b{key}\b", page)} == set()


def test_the_service_is_less_exposed_than_upstream_s(installed: Root) -> None:
    said = installed.run("systemd-analyze", "security", "--offline=true", "buildkit.service")
    (score,) = re.findall(r"exposure level for buildkit.service: ([\d.]+)", said)
    assert float(score) <= 7.5


def test_what_keeps_a_user_from_it(installed: Root) -> None:
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

#: What Fedora's packages would bring, and this root has from Debian's.
STAND_IN = """Name: stand-in
Version: 1
Release: 1
Summary: What else there is
License: none
BuildArch: noarch
Provides: /bin/sh, iproute, iptables, runc, rootlesskit, shadow-utils, slirp4netns, systemd
AutoReqProv: no
%description
%files
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the package that stands in for all that ours depend on."""
    folder = tmp_path_factory.mktemp("stand-in")
    (folder / "stand-in.spec").write_text(STAND_IN)
    commands: list[list[str | Path]] = [
        ["rpmbuild", "-bb", "--define", f"_topdir {folder}", folder / "stand-in.spec"],
        ["createrepo_c", folder / "RPMS"],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return folder / "RPMS"


@dataclass(frozen=True)
class Dnf:
    """dnf, that installs into a root directory.

    Args:
        root: the root directory.
        folder: for its settings and its cache.
        stand_in: the repository of what packages depend on.
    """

    root: Root
    folder: Path
    stand_in: Path

    def attempt(self, repository: Path, url: str, *args: str, key: str = "") -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Do what index.html says, with the key that is there, or another."""
        text = (repository / "rpm" / "buildkit.repo").read_text()
        text = text.replace("https://packages.example.org", url)
        if key:
            (self.folder / "other.asc").write_text(key)
            text = re.sub("gpgkey=.*", f"gpgkey=file://{self.folder}/other.asc", text)
        text += f"[stand-in]\nname=stand-in\nbaseurl=file://{self.stand_in}\ngpgcheck=0\n"
        (self.folder / "repos").mkdir(exist_ok=True)
        (self.folder / "repos" / "buildkit.repo").write_text(text)
        # It starts an agent of GnuPG, which would stay.
        return subprocess.run(
            [*process.namespaced(), "dnf", "--assumeyes", f"--installroot={self.root.path}", "--releasever=1",
             f"--setopt=reposdir={self.folder}/repos", f"--setopt=cachedir={self.folder}/cache",
             "--setopt=install_weak_deps=False", "--setopt=metadata_expire=0", *args],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def rpm(self, *args: str) -> str:
        """What rpm says of the root."""
        return process.read(["rpm", f"--root={self.root.path}", *args])


@pytest.fixture
def dnf(root: Root, tmp_path: Path, stand_in: Path) -> Dnf:
    return Dnf(root, tmp_path, stand_in)


def test_life_by_dnf(made: Made, dnf: Dnf) -> None:
    root = dnf.root
    with serving(made.first) as url:
        done = dnf.attempt(made.first, url, "install", "buildkit", "buildkit-rootless")
        assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((made.packages / "manifest.json").read_text())
    assert manifest["version"] in root.run("buildkitd", "--version")
    assert dnf.rpm("--verify", "--nodeps", "--nouser", "--nogroup", "buildkit") == ""
    assert "buildkit:x:" in root.read("/etc/group")
    assert dnf.rpm("--query", "--configfiles", "buildkit").split() == [
        "/etc/buildkit/buildkitd.toml"
    ]
    edited = root.read("/etc/buildkit/buildkitd.toml") + "# ours\n"
    root.write("/etc/buildkit/buildkitd.toml", edited)
    root.write("/var/lib/buildkit/buildkitd.lock", "")

    with serving(made.second) as url:
        done = dnf.attempt(made.second, url, "upgrade")
        assert done.returncode == 0, done.stdout + done.stderr
        assert dnf.rpm("--query", "--queryformat=%{RELEASE}", "buildkit") == "2"
        assert root.read("/etc/buildkit/buildkitd.toml") == edited
        done = dnf.attempt(made.second, url, "remove", "buildkit")
        assert done.returncode == 0, done.stdout + done.stderr
    assert not root.exists("/usr/bin/buildkitd")
    assert not root.exists("/usr/bin/buildkit-rootless-check"), "it needs the other"
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
    """Another program, and all indexes anew; by somebody who does not have the key."""
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
    made: Made, dnf: Dnf, tmp_path: Path, tamper: Callable[[Path], None], reason: str
) -> None:
    repository = Path(shutil.copytree(made.first, tmp_path / "repository"))
    tamper(repository)
    with serving(repository) as url:
        done = dnf.attempt(repository, url, "install", "buildkit")
    assert done.returncode == 1
    assert re.search(reason, done.stdout + done.stderr), done.stdout + done.stderr
    assert not dnf.root.exists("/usr/bin/buildkitd")


def test_dnf_refuses_another_s_key(made: Made, dnf: Dnf) -> None:
    with serving(made.first) as url:
        done = dnf.attempt(made.first, url, "install", "buildkit", key=made.public)
    assert done.returncode == 1
    assert re.search("(?i)gpg|signature|key", done.stdout + done.stderr), done.stderr
    assert not dnf.root.exists("/usr/bin/buildkitd")
