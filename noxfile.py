# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2"]
# ///
"""The test matrix: `nox --list` shows it, `nox -s NAME` runs one session.

Every session installs the locked requirements; what follows `--` is passed on.
"""

import platform
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False

PYTHON_FILES = ["tasks.py", "noxfile.py", "buildkit_riscv64", "benchmarks", "docs", "tests"]


def install(session: nox.Session) -> None:
    """Put the locked requirements into the session's environment."""
    session.install("--require-hashes", "--only-binary", ":all:", "-r", "requirements-dev.txt")


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Format, lint and spelling of everything we wrote, and what is wrong or unsafe in workflows."""
    install(session)
    session.run("ruff", "format", "--check", *PYTHON_FILES)
    session.run("ruff", "check", *PYTHON_FILES)
    session.run("codespell")
    # shellcheck publishes nothing for riscv64, and what it says is the same everywhere.
    if platform.machine() != "riscv64":
        scripts = [
            *Path("buildkit_riscv64/machine/recipe").glob("*-hook"),
            *Path("dockerfiles/common/usr/bin").glob("*"),
            *(Path("dockerfiles/packages") / name for name in ("unpack", "complete")),
            *Path("packaging/scripts/deb").glob("*"),
            Path("packaging/buildkit-rootless-check"),
            Path("packaging/completion/buildctl.bash"),
        ]
        session.run("shellcheck", "invoke", ".ci/run", "updatecli/move", *map(str, scripts))
        # Nor does zizmor.
        session.run("zizmor", "--offline", "--no-progress", ".github")
    session.run("python", "-m", "buildkit_riscv64.gotools", "actionlint")


@nox.session(tags=["check"])
def docs(session: nox.Session) -> None:
    """The site, in site/: warnings are errors. `-- --links` asks for every link on the internet too."""
    # PyYAML, which it needs, publishes nothing for riscv64, and pages are the same everywhere.
    if platform.machine() == "riscv64":
        session.log("the site is made elsewhere")
        return
    install(session)
    sphinx = ["sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    session.run(*sphinx, "--builder", "html", "docs", "site")
    if "--links" in session.posargs:
        session.run(*sphinx, "--builder", "linkcheck", "docs", "site/.links")
    session.run("kubernetes-validate", "--strict", *map(str, Path("docs/farm").glob("*.yaml")))
    session.log("to read it: site/index.html")


@nox.session(tags=["check"])
def types(session: nox.Session) -> None:
    """Types, strictly."""
    install(session)
    session.run("mypy", *session.posargs)


def run_invoke(session: nox.Session, *words: str) -> None:
    """Type `./invoke …`, which makes its own environment."""
    session.run("./invoke", *words, external=True)


def made(session: nox.Session) -> None:
    """Have binaries and images in dist/: made now, in a fresh clone; at once, if nothing changed."""
    run_invoke(session, "build-binaries", "--yes")
    run_invoke(session, "build-image", "--yes")
    run_invoke(session, "build-image", "--yes", "--rootless")


def validated(session: nox.Session, *suites: str) -> None:
    """Validate what this checkout makes."""
    made(session)
    only = ["--only", ",".join(suites)] if suites else []
    run_invoke(session, "validate", "--yes", *only, *session.posargs)


@nox.session(venv_backend="none", tags=["validate"])
def validate(session: nox.Session) -> None:
    """The whole matrix against dist/: standalone, buildx, rootless, platforms; and the evidence."""
    validated(session)


@nox.session(tags=["real"])
def tests(session: nox.Session) -> None:
    """All tests: unit, the real upstream compiled, a miniature broken, a riscv64 machine emulated.

    On riscv64 itself there is nothing to emulate, and no Chromium.
    """
    install(session)
    native = ["-m", "not machine and not pages"] if platform.machine() == "riscv64" else []
    session.run("pytest", *native, *session.posargs)


@nox.session(tags=["real"])
def walkthrough(session: nox.Session) -> None:
    """What the pages tell people to type, typed: here, with docker, and on a booted Debian."""
    install(session)
    made(session)
    session.run("pytest", "tests/walkthrough", *session.posargs)


@nox.session(default=False, venv_backend="none", tags=["validate"])
def standalone(session: nox.Session) -> None:
    """Of the matrix: the binaries alone, on this machine."""
    validated(session, "standalone")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def buildx(session: nox.Session) -> None:
    """Of the matrix: the image in docker, and remote builders, by buildx."""
    validated(session, "buildx")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def rootless(session: nox.Session) -> None:
    """Of the matrix: daemon and image as an ordinary user."""
    validated(session, "rootless")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def platforms(session: nox.Session) -> None:
    """Of the matrix: building for other architectures, and running what was built."""
    validated(session, "platforms")


@nox.session(default=False, tags=["check"])
def unit(session: nox.Session) -> None:
    """Unit tests alone: no docker, no network, seconds."""
    install(session)
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session(default=False, tags=["machine"])
def machine(session: nox.Session) -> None:
    """Of the tests, those that make an emulated riscv64 machine from nothing, boot it and break it."""
    install(session)
    session.run("pytest", "-m", "machine", *session.posargs)


@nox.session(default=False, tags=["real"])
def image(session: nox.Session) -> None:
    """Of the tests, those of the image, with the binaries that are in dist/."""
    install(session)
    env = {"BUILDKIT_TEST_DIST": str(Path("dist").resolve())}
    session.run("pytest", "-m", "image", *session.posargs, env=env)


@nox.session(default=False, tags=["real"])
def packages(session: nox.Session) -> None:
    """Of the tests, those of packages, with the binaries that are in dist/: in a clean Debian."""
    install(session)
    env = {"BUILDKIT_TEST_DIST": str(Path("dist").resolve())}
    tests = [f"tests/integration/test_{name}.py" for name in ("packages", "signing")]
    session.run("pytest", *tests, *session.posargs, env=env)


@nox.session(default=False, tags=["real"])
def pages(session: nox.Session) -> None:
    """Of the tests, those that open the site and our other pages in a browser."""
    install(session)
    session.run("pytest", "-m", "pages", *session.posargs)


@nox.session(default=False, venv_backend="none", tags=["machine"])
def riscv64(session: nox.Session) -> None:
    """The real upstream and its image, made natively in the emulated riscv64 machine and validated.

    Binaries are cross-checked here. The whole matrix runs there, its evidence comes back,
    and packages are made there. Two hours; the machine and its caches are kept. What it
    takes more than an hour more to try there, and is tried elsewhere as well, is left out:
    `invoke on riscv64 -- nox -s image`.
    """

    def there(*words: str) -> None:
        run_invoke(session, "on", "riscv64", "--yes", "--", *words)

    run_invoke(session, "machine.create", "--yes", "--if-missing")
    there("build-binaries", "--bundle", *session.posargs)
    run_invoke(session, "check-binaries", "--target", "linux-riscv64")
    run_invoke(session, "verify-binaries", "--cross-check", "--target", "linux-riscv64")
    there("build-image", "--engine=buildkit")
    there("build-image", "--engine=buildkit", "--rootless")
    there("check-image")
    run_invoke(session, "check-image", "--yes", "--target", "linux-riscv64")
    there("validate")
    there("build-packages")
    run_invoke(session, "status", "--target", "linux-riscv64")


@nox.session(default=False)
def benchmark(session: nox.Session) -> None:
    """What we add to the Go compiler and to qemu, and the image's size, against the plain way."""
    install(session)
    for name in ("build_binaries", "image", "machine"):
        session.run("python", "-m", f"benchmarks.{name}", *session.posargs)


@nox.session(default=False, venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove what tests and tools left in the checkout; dist/ stays."""
    for name in (".mypy_cache", ".pytest_cache", ".ruff_cache"):
        shutil.rmtree(name, ignore_errors=True)
        session.log(f"removed {name}")
