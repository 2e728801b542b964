# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2"]
# ///
"""The test matrix: `nox` lists it, `nox -s NAME` runs one session, `nox -t TAG` a group.

Every session installs the locked requirements, and passes on the arguments after `--`.
`invoke test` runs the sessions of its own list.
"""

import shutil
import sys
from pathlib import Path

import nox

# Where nox itself is installed elsewhere, this directory is not on its path.
sys.path.insert(0, str(Path(__file__).parent))
from buildkit_riscv64.testing import capabilities

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False
# Without arguments nothing runs: nox lists the sessions.
nox.options.sessions = []

PYTHON_FILES = ["tasks.py", "noxfile.py", "buildkit_riscv64", "benchmarks", "docs", "tests"]
#: What this host cannot run, as `invoke test` found out, or by its architecture.
LIMITS = capabilities.load()
SCENARIOS = "buildkit_riscv64/validation/scenarios"
#: Two test processes. Each runs whole files, because the tests of a file share fixtures.
PARALLEL = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")


def skip_if_unsupported(session: nox.Session, *tests: str) -> None:
    """Skip a session that this host cannot run, and count its tests."""
    reason = LIMITS.sessions.get(session.name)
    if not reason:
        return
    if tests:
        counting = [sys.executable, "-m", "pytest", "--quiet", "--collect-only", *tests]
        session.run(*counting, env={capabilities.LEFT_OUT: reason}, external=True, silent=True)
    session.skip(f"not run here: {reason}")


def runs_here(session: nox.Session, step: str) -> bool:
    """Whether this host can run a step. If not, the log gives the reason."""
    reason = LIMITS.sessions.get(f"{session.name}: {step}")
    if reason:
        session.warn(f"not run here: {step}: {reason}")
    return not reason


def install(session: nox.Session, *tests: str) -> None:
    """Install the locked requirements into the session's environment, unless it has them."""
    skip_if_unsupported(session, *tests)
    lock = capabilities.LOCK
    stamp = Path(session.virtualenv.location) / lock.name
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        session.install("--require-hashes", "--only-binary", ":all:", "-r", str(lock))
        shutil.copy(lock, stamp)


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Format, lint and spelling; faults and security of the workflows."""
    install(session)
    session.run("ruff", "format", "--check", *PYTHON_FILES)
    session.run("ruff", "check", *PYTHON_FILES)
    session.run("codespell")
    if runs_here(session, "shellcheck"):
        scripts = [
            *Path("buildkit_riscv64/machine/recipe").glob("*-hook"),
            *Path("dockerfiles/common/usr/bin").glob("*"),
            *(Path("dockerfiles/packages") / name for name in ("unpack", "complete")),
            *Path("packaging/scripts/deb").glob("*"),
            Path("packaging/buildkit-rootless-check"),
            Path("packaging/completion/buildctl.bash"),
        ]
        session.run("shellcheck", "invoke", ".ci/run", ".github/updatecli/move", *map(str, scripts))
        session.run("zizmor", "--offline", "--no-progress", ".github", "docs/ci/github.yml")
    if runs_here(session, "actionlint"):
        workflows = map(str, Path(".github/workflows").glob("*.yml"))
        actionlint = ("python", "-m", "buildkit_riscv64.binaries.gotools", "actionlint")
        session.run(*actionlint, *workflows, "docs/ci/github.yml")


@nox.session(tags=["check"])
def docs(session: nox.Session) -> None:
    """Build the site in site/; warnings are errors. `-- --links` also checks external links."""
    install(session)
    # The site is published with these file modes.
    public = ["sh", "-c", 'umask 022; exec "$@"', "sh"]
    sphinx = ["sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    session.run(*public, *sphinx, "--builder", "html", "docs", "site", external=True)
    if "--links" in session.posargs:
        session.run(*sphinx, "--builder", "linkcheck", "docs", "site/.links")
    session.run("kubernetes-validate", "--strict", *map(str, Path("docs/farm").glob("*.yaml")))
    for name, schema in (("github", "github-workflows"), ("gitlab", "gitlab-ci")):
        session.run(
            "check-jsonschema", "--builtin-schema", f"vendor.{schema}", f"docs/ci/{name}.yml"
        )
    session.log("open site/index.html")


@nox.session(tags=["check"])
def types(session: nox.Session) -> None:
    """Type checks: mypy --strict."""
    install(session)
    session.run("mypy", *session.posargs)


def run_invoke(session: nox.Session, *words: str) -> None:
    """Run `./invoke …`, which creates its own environment."""
    session.run("./invoke", *words, external=True)


def build_artifacts(session: nox.Session) -> None:
    """Build binaries and images in dist/, unless they are up to date."""
    run_invoke(session, "build-binaries", "--yes")
    run_invoke(session, "build-image", "--yes")
    run_invoke(session, "build-image", "--yes", "--rootless")


def run_validation(session: nox.Session, *suites: str) -> None:
    """Validate the artifacts of this checkout; build them first."""
    skip_if_unsupported(session, *(f"{SCENARIOS}/{suite}" for suite in suites or ("",)))
    build_artifacts(session)
    only = ["--only", ",".join(suites)] if suites else []
    run_invoke(session, "validate", "--yes", *only, *session.posargs)


@nox.session(venv_backend="none", tags=["validate"])
def validate(session: nox.Session) -> None:
    """The whole matrix: standalone, buildx, rootless, platforms; writes the evidence."""
    run_validation(session)


@nox.session(tags=["real"])
def tests(session: nox.Session) -> None:
    """Unit and integration tests: compile upstream, build images, emulate a riscv64 machine."""
    install(session, "tests/unit", "tests/integration")
    session.run("pytest", *PARALLEL, "--durations=25", *session.posargs)


@nox.session(tags=["real"])
def walkthrough(session: nox.Session) -> None:
    """Run the commands of the documentation: here, with docker, and on a booted Debian."""
    install(session, "tests/walkthrough")
    build_artifacts(session)
    session.run("pytest", *PARALLEL, "tests/walkthrough", *session.posargs)


@nox.session(default=False, venv_backend="none", tags=["validate"])
def standalone(session: nox.Session) -> None:
    """Matrix: the daemon alone, on this machine."""
    run_validation(session, "standalone")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def buildx(session: nox.Session) -> None:
    """Matrix: buildx with the image in docker, and with remote builders."""
    run_validation(session, "buildx")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def rootless(session: nox.Session) -> None:
    """Matrix: daemon and image as an ordinary user."""
    run_validation(session, "rootless")


@nox.session(default=False, venv_backend="none", tags=["validate"])
def platforms(session: nox.Session) -> None:
    """Matrix: build for other architectures, and run the results."""
    run_validation(session, "platforms")


@nox.session(default=False, tags=["check"])
def unit(session: nox.Session) -> None:
    """Unit tests: no docker, no network."""
    install(session, "tests/unit")
    session.run("pytest", *PARALLEL, "tests/unit", *session.posargs)


@nox.session(default=False, tags=["machine"])
def machine(session: nox.Session) -> None:
    """Tests of the emulated riscv64 machine: create, boot, break and repair it."""
    install(session)
    session.run("pytest", "-m", "machine", *session.posargs)


@nox.session(default=False, tags=["real"])
def image(session: nox.Session) -> None:
    """Tests of the image, with the binaries in dist/."""
    install(session)
    env = {"BUILDKIT_TEST_DIST": str(Path("dist").resolve())}
    session.run("pytest", "-m", "image", *session.posargs, env=env)


@nox.session(default=False, tags=["real"])
def packages(session: nox.Session) -> None:
    """Tests of deb and rpm in a clean Debian, with the binaries in dist/."""
    install(session)
    env = {"BUILDKIT_TEST_DIST": str(Path("dist").resolve())}
    tests = [f"tests/integration/test_{name}.py" for name in ("packages", "signing")]
    session.run("pytest", *tests, *session.posargs, env=env)


@nox.session(default=False, tags=["real"])
def pages(session: nox.Session) -> None:
    """Tests of the site and the reports in a browser."""
    install(session)
    session.run("pytest", "-m", "pages", *session.posargs)


@nox.session(default=False, venv_backend="none", tags=["machine"])
def riscv64(session: nox.Session) -> None:
    """All four phases in the emulated riscv64 machine: about two hours.

    The machine compiles binaries, builds images, runs the matrix and builds packages. This
    host cross-checks the binaries and receives the evidence. The machine and its caches stay.
    The tests of the image there take one hour more: `invoke on riscv64 -- nox -s image`.
    """

    def on_riscv64(*words: str) -> None:
        run_invoke(session, "on", "riscv64", "--yes", "--", *words)

    run_invoke(session, "machine.create", "--yes", "--if-missing")
    on_riscv64("build-binaries", "--bundle", *session.posargs)
    run_invoke(session, "check-binaries", "--target", "linux-riscv64")
    run_invoke(session, "verify-binaries", "--cross-check", "--target", "linux-riscv64")
    on_riscv64("build-image", "--engine=buildkit")
    on_riscv64("build-image", "--engine=buildkit", "--rootless")
    on_riscv64("check-image")
    run_invoke(session, "check-image", "--yes", "--target", "linux-riscv64")
    on_riscv64("validate")
    on_riscv64("build-packages")
    run_invoke(session, "status", "--target", "linux-riscv64")


@nox.session(default=False, tags=["real"])
def fresh(session: nox.Session) -> None:
    """README's two commands on a fresh Debian 12 and a fresh Debian 13, built from packages.

    `-- bookworm` or `-- trixie` chooses one; `--as user` and `--as unprivileged` choose who
    runs the commands. Needs root. Two hours for both.
    """
    install(session)
    session.run("python", "-m", "tests.fresh", *session.posargs)


@nox.session(default=False)
def benchmark(session: nox.Session) -> None:
    """Our cost on top of the Go compiler and of qemu, and the size of the image."""
    install(session)
    for name in ("build_binaries", "image", "machine"):
        session.run("python", "-m", f"benchmarks.{name}", *session.posargs)


@nox.session(default=False, venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove the caches of test tools from the checkout; dist/ stays."""
    for name in (".mypy_cache", ".pytest_cache", ".ruff_cache"):
        shutil.rmtree(name, ignore_errors=True)
        session.log(f"removed {name}")
