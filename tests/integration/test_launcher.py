"""`./invoke` and `./nox`: they create .venv independently of the user's settings."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import booleans
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .miniature import CHECKOUT, STRANGER, Done, as_root, path_with, refused, succeeded, with_mounts

pytestmark = pytest.mark.integration

#: Tools that the launcher calls, in addition to Python, to create the environment.
TOOLS = ("cat", "cmp", "dirname", "env", "flock", "head", "id", "readlink", "rm", "sed", "sh", "stat")  # fmt: skip
#: A Python that every user can run; the Python of the tests may be in root's home.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable

# A program that prints its arguments and environment.
_PACKAGE = """\
import json, os, sys
print(json.dumps({
    "module": __package__, "arguments": sys.argv[1:], "cwd": os.getcwd(), "prefix": sys.prefix,
    "file": __file__, "path": sys.path, "environment": dict(os.environ),
}))
"""


#: The module that ./nox starts.
MODULE = "buildkit_riscv64.nox"


def _wheel(directory: Path, name: str, module: str) -> str:
    """Build a wheel of one package, and return its line of requirements."""
    info = f"{name}-1.dist-info"
    files = {f"{module.replace('.', '/')}/__main__.py": _PACKAGE} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        csv.writer(record).writerow([path, f"sha256={digest.decode()}", len(text)])
    files[f"{info}/RECORD"] = f"{record.getvalue()}{info}/RECORD,,\n"
    wheel = directory / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@dataclass(frozen=True)
class Checkout:
    """A checkout with the launcher and its requirements.

    Args:
        root: the checkout.
        env: the user's environment.
    """

    root: Path
    env: dict[str, str]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def run(
        self,
        *args: str,
        program: str | Path = "nox",
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run the launcher, and wait."""
        done = subprocess.run(
            [*prefix, self.root / program if isinstance(program, str) else program, *args],
            cwd=cwd or self.root, env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=BOUND,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def seen(self, *args: str, **options: Any) -> dict[str, Any]:
        """The arguments and environment of the started program; the run must succeed."""
        done = succeeded(self.run(*args, **options))
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["prefix"] == str(self.venv)
        assert found["file"].startswith(f"{self.venv}/lib/"), found["file"]
        return found


@contextlib.contextmanager
def new_checkout() -> Iterator[Checkout]:
    # Other users cannot read pytest's directories.
    with tempfile.TemporaryDirectory(prefix="launcher-") as name:
        place = Path(name)
        place.chmod(0o755)
        root = place / "checkout"
        for path in (root / "requirements", place / "home", place / "wheels"):
            path.mkdir(parents=True)
        shutil.copy(CHECKOUT / "invoke", root)
        (root / "nox").symlink_to("invoke")
        lock = [
            _wheel(place / "wheels", package, module)
            for package, module in (("invoke", "invoke"), ("nox", MODULE))
        ]
        (root / "requirements" / "runtime.txt").write_text("".join(lock))
        yield Checkout(
            root,
            {
                "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}",
                "HOME": str(place / "home"), "LC_ALL": "C.UTF-8",
                "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place / "wheels"),
            },
        )  # fmt: skip


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """A fresh clone."""
    with new_checkout() as new:
        yield new


@pytest.fixture(scope="module")
def ready() -> Iterator[Checkout]:
    """A checkout with its environment, which each test leaves intact."""
    with new_checkout() as new:
        new.seen()
        yield new


#: Runs a command as the stranger.
AS_STRANGER = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]


def owned(checkout: Checkout, *options: str) -> list[str]:
    """The prefix of a command of root, so that the stranger owns the checkout."""
    change = ["chown", *options, str(STRANGER), str(checkout.root)]
    return [*as_root(), "sh", "-euc", f'{" ".join(change)}\nexec "$@"', "sh"]


@contextlib.contextmanager
def taken_back(checkout: Checkout) -> Iterator[None]:
    """At the end, give all files back to root."""
    try:
        yield
    finally:
        subprocess.run([*as_root(), "chown", "-hR", "0:0", checkout.root], check=True)


# Python.


def old_python(path: Path) -> Path:
    return script(path, 'case "$1" in --version) echo "Python 3.9.2" ;; *) exit 1 ;; esac')


def test_python_too_old(checkout: Checkout, tmp_path: Path) -> None:
    old = old_python(tmp_path / "python3")
    path = f"{tmp_path}:{checkout.env['PATH']}"
    refused(checkout.run("--list", env={"PATH": path}), 3, "3.9.2", "3.11")
    refused(checkout.run("--list", env={"PYTHON": str(old)}), 3, "3.9.2")
    assert not checkout.venv.exists()


def test_no_python(checkout: Checkout, tmp_path: Path) -> None:
    tools = path_with(tmp_path / "bin", *TOOLS)
    refused(checkout.run("--list", env={"PATH": tools}), 3, "python3")


def test_python_does_not_run(checkout: Checkout, tmp_path: Path) -> None:
    """pyenv has such a program for a version that is not installed."""
    shim = script(tmp_path / "python3", "echo 'pyenv: python3: command not found' >&2; exit 127")
    refused(checkout.run("--list", env={"PYTHON": str(shim)}), 3, str(shim), "pyenv")


def test_python_changed(ready: Checkout, tmp_path: Path) -> None:
    program = ready.venv / "bin" / "python"
    program.unlink()
    program.symlink_to(script(tmp_path / "python3.9", "echo No module named nox >&2; exit 1"))
    assert ".venv" in succeeded(ready.run()).stderr
    assert succeeded(ready.run()).stderr == ""
    ready.seen()


def test_interrupted_rebuild(ready: Checkout, tmp_path: Path) -> None:
    program = ready.venv / "bin" / "python"
    program.unlink()
    program.symlink_to(tmp_path / "python3.9")
    run = subprocess.Popen(
        [ready.root / "nox"], env=ready.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert eventually(program.exists)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait() != 0
    ready.seen()


# The checkout, and the started program.


def test_existing_environment(checkout: Checkout) -> None:
    """It runs in the checkout with unchanged arguments, and the exit code is passed on."""
    program = script(checkout.venv / "bin" / "python", 'pwd; printf "<%s>" "$@"; exit 7')
    lock = (checkout.root / "requirements/runtime.txt").read_text()
    (checkout.venv / "stamp").write_text(f"{lock}{program}\n")
    done = checkout.run("-s", "a b", "", cwd=Path("/"))
    assert done.code == 7
    assert done.stdout == f"{checkout.root}\n<-m><{MODULE}><-s><a b><>"
    done = checkout.run("build-binaries", program="invoke", cwd=Path("/"))
    assert done.stdout == f"{checkout.root}\n<-m><buildkit_riscv64><build-binaries>"


def test_called_from_anywhere(ready: Checkout) -> None:
    other = ready.root.parent / "other"
    (other / "checkout").mkdir(parents=True)
    relative = Path("checkout/nox")
    assert (
        ready.seen(program=relative, cwd=other.parent, env={"CDPATH": str(other)})["module"]
        == MODULE
    )
    assert not list((other / "checkout").iterdir())


def test_commands_of_the_environment(ready: Checkout) -> None:
    bin_ = ready.venv / "bin"
    for path in (str(bin_ / "nox"), "nox"):
        done = subprocess.run(
            [path, "-s", "a b"], cwd="/", capture_output=True, text=True, check=True,
            env={**ready.env, "PATH": f"{bin_}:{ready.env['PATH']}"},
        )  # fmt: skip
        seen = json.loads(done.stdout)
        assert (seen["module"], seen["arguments"], seen["cwd"]) == (MODULE, ["-s", "a b"], str(ready.root))  # fmt: skip
    assert "/../../invoke" in (bin_ / "invoke").read_text()


def test_called_through_links(ready: Checkout) -> None:
    home = Path(ready.env["HOME"])
    links = ("nox", "buildkit-nox")
    (home / "bin").mkdir()
    for name in links:
        (home / "bin" / name).symlink_to(ready.root / "nox")
        seen = ready.seen("-l", program=home / "bin" / name, cwd=home)
        assert (seen["module"], seen["arguments"], seen["cwd"]) == (MODULE, ["-l"], str(ready.root))  # fmt: skip
    # A relative link to a link.
    (home / "nox").symlink_to("bin/nox")
    assert ready.seen(program=home / "nox", cwd=home)["module"] == MODULE
    assert {path.name for path in (home / "bin").iterdir()} == set(links)


# The user's settings.


def elsewhere(checkout: Checkout) -> dict[str, str]:
    """Settings that change the destination or the choice of packages."""
    place = checkout.root.parent
    return {
        "user": "1", "target": f"{place}/target", "prefix": f"{place}/prefix",
        "root": f"{place}/root", "no-binary": ":all:", "dry-run": "1",
    }  # fmt: skip


def test_variables_of_pip_and_python(checkout: Checkout) -> None:
    """Only pip's package sources are used; other variables and modules are ignored."""
    place = checkout.root.parent
    constraint, modules = place / "constraint.txt", place / "modules"
    constraint.write_text("nox==2\n")
    sites = [modules, place / "home/.local/lib" / Path(PYTHON).resolve().name / "site-packages"]
    for path in (
        site / name for site in sites for name in ("buildkit_riscv64", "nox", "pip", "json", "venv")
    ):
        path.mkdir(parents=True)
        (path / "__init__.py").write_text("raise SystemExit('another module')")
    options = {**elsewhere(checkout), "constraint": str(constraint), "python": "/nonexistent"}
    variables = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in options.items()}
    variables |= {
        "PYTHONPATH": str(modules), "PYTHONHOME": "/nonexistent", "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "2", "PYTHONINSPECT": "1", "PYTHONUSERBASE": f"{place}/home/.local",
    }  # fmt: skip
    before = sorted(place.iterdir())
    for _ in range(2):
        seen = checkout.seen(env=variables)
        assert sorted(place.iterdir()) == before
        # The sessions of Nox do not get them either.
        assert variables.keys() & seen["environment"].keys() == {"PIP_USER"}
        assert seen["environment"]["PIP_USER"] == "0"
        assert seen["environment"]["PIP_FIND_LINKS"] == checkout.env["PIP_FIND_LINKS"]


def test_pip_conf(checkout: Checkout) -> None:
    """Only pip's package sources are used; other settings of pip.conf are ignored."""
    origin = {"no-index": "1", "find-links": checkout.env.pop("PIP_FIND_LINKS")}
    del checkout.env["PIP_NO_INDEX"]
    lines = [
        line for section in ("global", "install")
        for line in (f"[{section}]", *(f"{k} = {v}" for k, v in elsewhere(checkout).items()))
    ]  # fmt: skip
    lines += ["[download]", *(f"{name} = {value}" for name, value in origin.items())]
    path = Path(checkout.env["HOME"]) / ".config" / "pip" / "pip.conf"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    before = sorted(checkout.root.parent.iterdir())
    checkout.seen()
    assert sorted(checkout.root.parent.iterdir()) == before


def test_variables_that_are_passed_on(ready: Checkout) -> None:
    expected = {
        "HTTPS_PROXY": "http://proxy.invalid", "SSL_CERT_FILE": "/x", "REQUESTS_CA_BUNDLE": "/x",
        "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt", "PIP_TRUSTED_HOST": "index.invalid",
        "PIP_EXTRA_INDEX_URL": "http://index.invalid", "PYTHON": PYTHON, "A_B": "=\nPIP_C=1",
    }  # fmt: skip
    seen = ready.seen(env=expected)["environment"]
    assert {name: seen.get(name) for name in expected} == expected


def test_no_network(checkout: Checkout) -> None:
    """The error names the requirements; pip prints the reason."""
    env = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "0"}
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        del checkout.env[name]
    refused(checkout.run("--list", env=env), 10, "requirements/runtime.txt")
    assert not (checkout.venv / "stamp").exists()


# Limits of the host.

#: A fake of the module that announces the limits of the host.
_CAPABILITIES = "import os, sys; print('announced', *sys.argv[1:]); sys.exit(int(os.environ.get('REFUSE', '0')))"


@pytest.fixture
def announcing(checkout: Checkout) -> Checkout:
    """A fresh clone with a fake of the module that announces the limits of the host."""
    script = checkout.root / "buildkit_riscv64/testing/capabilities.py"
    script.parent.mkdir(parents=True)
    script.write_text(_CAPABILITIES)
    return checkout


def test_the_limits_are_announced_first(announcing: Checkout) -> None:
    done = announcing.run("test", "--all", program="invoke", cwd=Path("/"))
    assert done.stdout.splitlines()[0] == "announced test --all"
    assert ".venv" in done.stderr
    # With an environment, the task announces the limits itself.
    assert "announced" not in announcing.run("test", program="invoke").stdout


def test_a_refusal_creates_no_environment(announcing: Checkout) -> None:
    done = announcing.run("test", "--all", program="invoke", env={"REFUSE": "3"})
    assert (done.code, done.stdout) == (3, "announced test --all\n")
    assert not announcing.venv.exists()


@pytest.mark.parametrize(
    "args", [("--dry", "test"), ("test", "--help"), ("status",), ("on", "board", "--", "test")]
)
def test_other_commands_announce_nothing(announcing: Checkout, args: tuple[str, ...]) -> None:
    assert "announced" not in announcing.run(*args, program="invoke").stdout
    assert "announced" not in announcing.run("-s", "test").stdout


# Questions.


@pytest.mark.parametrize("value", ["", "0", "false", "No", "OFF", "1", "true", "on", "woodpecker", "f", "00"])  # fmt: skip
def test_yes_means_the_same_in_shell_and_python(value: str) -> None:
    (rule,) = re.findall(r"^means_yes\(\).*?^}$", (CHECKOUT / "invoke").read_text(), re.M | re.S)
    done = subprocess.run(["sh", "-c", f'{rule}\nmeans_yes "$1"', "sh", value], check=False)
    assert (done.returncode == 0) is booleans.is_yes(value)


@pytest.mark.parametrize(
    ("variables", "args", "yes"),
    [
        ({"CI": "false"}, (), False),
        ({"CI": "woodpecker"}, (), True),
        ({"INVOKE_YES": "false"}, (), False),
        ({"INVOKE_YES": "1"}, (), True),
        ({"CI": "false"}, ("test", "--yes"), True),
        ({}, ("-y", "test"), True),
        ({}, ("on", "board", "--", "test", "--yes"), False),
        ({}, (), False),
    ],
)
def test_yes(
    checkout: Checkout, tmp_path: Path, variables: dict[str, str], args: Sequence[str], yes: bool
) -> None:
    """The launcher installs packages without a question only with consent."""
    script(
        tmp_path / "python3",
        f'case "$2" in *ensurepip*) exit 1 ;; esac; exec {PYTHON} "$@"',
    )
    for name in ("apt-get", "sudo"):
        script(tmp_path / name, f'echo {name} "$@" >>{tmp_path}/calls; exit 1')
    path = f"{tmp_path}:{checkout.env['PATH']}"
    done = checkout.run(*args, env={"PATH": path, **variables})
    refused(done, 3, "python3-venv")
    assert (tmp_path / "calls").exists() is yes


# Files.


def closed(checkout: Checkout) -> str:
    """A shell command after which the checkout is on a read-only filesystem."""
    return f"mount --bind {checkout.root} {checkout.root}\nmount -o remount,bind,ro {checkout.root}"


@pytest.mark.needs("mounts")
def test_read_only_checkout(checkout: Checkout, ready: Checkout) -> None:
    refused(checkout.run(prefix=with_mounts(closed(checkout))), 9, str(checkout.root))
    ready.seen(prefix=with_mounts(closed(ready)))


@pytest.mark.needs("owners")
def test_checkout_of_another_user(checkout: Checkout, ready: Checkout) -> None:
    refused(checkout.run(prefix=[*as_root(), *AS_STRANGER]), 9, str(checkout.root))
    # A current environment needs no writing.
    ready.seen(prefix=[*as_root(), *AS_STRANGER])


@pytest.mark.needs("owners")
def test_environment_of_another_user(checkout: Checkout) -> None:
    """An old `sudo ./invoke` left such an environment."""
    (checkout.venv / "bin").mkdir(parents=True)
    with taken_back(checkout):
        done = checkout.run(prefix=[*owned(checkout), *AS_STRANGER])
    refused(done, 9, ".venv")
    assert "rm -rf" in done.stderr


@pytest.mark.needs("owners")
def test_root_gives_the_environment_to_the_owner(checkout: Checkout) -> None:
    python = Path(PYTHON).resolve()
    before = python.stat().st_uid
    with taken_back(checkout):
        checkout.seen(prefix=owned(checkout, "-R"))
        listed = subprocess.run(
            [*as_root(), "find", checkout.root, "!", "-uid", str(STRANGER)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    assert listed.stdout == ""
    # The targets of links keep their owner.
    assert python.stat().st_uid == before


@pytest.mark.needs("mounts")
def test_full_disk(checkout: Checkout) -> None:
    full = with_mounts(
        f"""mount --bind {checkout.root} /mnt
        mount -t tmpfs -o size=$(($(du -sm /mnt | cut -f 1) + 4))m tmpfs {checkout.root}
        cp -a /mnt/. {checkout.root}"""
    )
    refused(checkout.run(prefix=full), 9, "space")


def test_concurrent_first_runs(checkout: Checkout) -> None:
    runs = [
        subprocess.Popen(
            [checkout.root / "nox"], env=checkout.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    outputs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outputs
    assert b"".join(stderr for _, stderr in outputs).count(b".venv") == 1
