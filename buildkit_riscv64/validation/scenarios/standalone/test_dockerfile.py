"""Instructions and features of Dockerfiles."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import secrets
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment.loopback import LOOPBACK, free_port, serving
from buildkit_riscv64.validation.environment.waiting import eventually

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import NewDaemon, run
from .results import ONLY_OUT, Builder, contents, decompressed, text

MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64"}


def test_run(builder: Builder, new_context: NewContext) -> None:
    """RUN in shell and exec form, in its own container, on the native architecture"""
    context = new_context(
        "FROM base AS work\n"
        "RUN mkdir /out && uname -m >/out/machine && echo $$ >/out/pid && hostname >/out/host\n"
        'RUN ["/bin/sh", "-c", "echo $0 $1 >/out/exec", "zero", "one two"]\n'
        'SHELL ["/bin/sh", "-euc"]\n'
        "RUN echo $- >/out/shell \\\n  && ls /proc | grep -c '^[0-9]' >/out/processes\n" + ONLY_OUT
    )
    reported = text(builder.directory(context))
    assert {"e", "u"} <= set(reported.pop("shell"))
    # The shell, ls and grep, but no processes of the machine.
    assert int(reported.pop("processes")) <= 4
    assert reported == {
        "machine": MACHINES[str(Architecture.here())], "pid": "1", "host": "buildkitsandbox",
        "exec": "zero one two",
    }  # fmt: skip


def test_failing_run(builder: Builder, new_context: NewContext) -> None:
    """A failing RUN reports its exit code and line, and nothing is exported"""
    context = new_context("FROM base\nRUN true\n\nRUN echo before; exit 42\nRUN echo never said\n")
    dest = builder.place()
    ended = builder.build(context, f"--output=type=local,dest={dest}").bad(
        "Dockerfile:4", ">>> RUN echo before; exit 42", "exit code: 42"
    )
    assert re.search(r"^#\d+ [\d.]+ before$", ended.stderr, re.MULTILINE)
    assert not re.search(r"^#\d+ [\d.]+ never said$", ended.stderr, re.MULTILINE)
    assert not dest.exists() or not any(dest.iterdir())


def test_dockerfile_errors(builder: Builder, new_context: NewContext) -> None:
    """Errors in a Dockerfile are reported with their line"""
    builder.build(new_context("FROM base\nRNU true\n")).bad(
        "Dockerfile:2", "unknown instruction: RNU", "did you mean"
    )
    builder.build(new_context("FROM base\nCOPY absent /\n")).bad("Dockerfile:2", '"/absent"')


def test_multi_stage(builder: Builder, new_context: NewContext) -> None:
    """Multi-stage builds: stages by name, by number, from another stage; unused stages are not built"""
    context = new_context(
        "FROM base AS first\nRUN echo one >/file\n"
        "FROM base\nRUN echo two >/file\n"
        "FROM base AS unused\nRUN exit 1\n"
        "FROM first AS third\nRUN cat /file /file >/twice\n"
        "FROM scratch\n"
        "COPY --from=first /file /by-name\nCOPY --from=1 /file /by-number\n"
        "COPY --from=third /file /twice /third/\n"
    )
    assert text(builder.directory(context)) == {
        "by-name": "one", "by-number": "two", "third/file": "one", "third/twice": "one\none",
    }  # fmt: skip


def test_target(builder: Builder, new_context: NewContext) -> None:
    """target=STAGE builds only that stage and its dependencies; an unknown stage is refused"""
    context = new_context(
        "FROM base AS made\nRUN echo made >/made\n"
        "FROM scratch AS wanted\nCOPY --from=made /made /\nFROM base\nRUN exit 1\n"
    )
    assert text(builder.directory(context, "--opt=target=wanted")) == {"made": "made"}
    builder.build(context).bad("exit code: 1")
    builder.build(context, "--opt=target=absent").bad('target stage "absent" could not be found')


def test_build_arguments(builder: Builder, new_context: NewContext) -> None:
    """Build arguments: before FROM, defaults, scope"""
    context = new_context(
        "ARG FROM_WHAT=absent\nARG GLOBAL=global\n"
        "FROM $FROM_WHAT AS work\n"
        "ARG DEFAULT=default GIVEN=default\nARG GLOBAL\n"
        "RUN mkdir /out && env >/out/env\n"
        "FROM work AS next\nRUN env >/out/next\n"
        "FROM base AS other\nRUN env >/env\n"
        "FROM scratch\nCOPY --from=next /out /\nCOPY --from=other /env /other\n"
    )
    opts = [f"--opt=build-arg:{it}" for it in ("FROM_WHAT=base", "GIVEN=given value", "STRAY=x")]
    reported = text(builder.directory(context, *opts))
    for place in ("env", "next"):
        lines = reported[place].splitlines()
        assert {"DEFAULT=default", "GIVEN=given value", "GLOBAL=global"} <= set(lines)
    assert "STRAY" not in "".join(reported.values())
    assert not re.search("DEFAULT|GIVEN|GLOBAL|FROM_WHAT", reported["other"])
    # Without the argument, the default image cannot be pulled.
    builder.build(context).bad("absent")


def test_predefined_arguments(builder: Builder, new_context: NewContext) -> None:
    """Predefined build arguments: the platforms of build and target"""
    names = [f"{of}{what}" for of in ("BUILD", "TARGET") for what in ("PLATFORM", "OS", "ARCH")]
    args = "".join(f"ARG {name}\n" for name in names)
    echo = " ".join(f"$\x7bNAME:+{name}=${name}\x7d".replace("NAME", name) for name in names)
    context = new_context(
        f"FROM base AS work\nRUN test -z \"$TARGETPLATFORM\"\n{args}"
        f"RUN mkdir /out && echo {echo} >/out/here\n"
        f"FROM scratch\n{args}COPY --from=work /out/here /$TARGETOS-$TARGETARCH\n"
    )  # fmt: skip
    here = {"PLATFORM": f"linux/{Architecture.here()}", "OS": "linux", "ARCH": Architecture.here()}
    expected = " ".join(f"{of}{name}={here[name]}" for of in ("BUILD", "TARGET") for name in here)
    assert text(builder.directory(context)) == {f"linux-{Architecture.here()}": expected}


def test_heredocs(builder: Builder, new_context: NewContext) -> None:
    """Heredocs in RUN and COPY"""
    context = new_context(
        "FROM base AS work\nARG WHO=world\n"
        "RUN <<SCRIPT\nmkdir /out\ncd /out\necho first >run\necho $WHO >>run\nSCRIPT\n"
        "RUN <<SCRIPT\n#!/bin/awk -f\nBEGIN { print 6 * 7 >\"/out/awk\" }\nSCRIPT\n"
        "RUN cat <<ONE >/out/inside && cat <<-TWO >>/out/inside\none\nONE\n\t\ttwo\n\tTWO\n"
        "COPY <<EXPANDED <<\"LITERAL\" /out/\nhello $WHO\nEXPANDED\nhello $WHO\nLITERAL\n"
        "COPY --chmod=750 <<-TABS /out/tabs\n\t\tindented\n\tTABS\n"
        "RUN stat -c %a /out/tabs >/out/mode\n" + ONLY_OUT
    )  # fmt: skip
    assert text(builder.directory(context)) == {
        "run": "first\nworld", "awk": "42", "inside": "one\ntwo", "EXPANDED": "hello world",
        "LITERAL": "hello $WHO", "tabs": "indented", "mode": "750",
    }  # fmt: skip


def test_copy_link(builder: Builder, new_context: NewContext) -> None:
    """COPY --link creates a layer that is independent of the layers below"""
    context = new_context(
        "FROM base AS first\nRUN echo 1 >/unlike && mkdir /target && ln -s target /place\n"
        "FROM base AS second\nRUN echo 2 >/unlike\n"
        "FROM first AS plain\nCOPY file /place/\n"
        "FROM first AS linked-1\nCOPY --link file /place/\n"
        "FROM second AS linked-2\nCOPY --link file /place/\n"
        "FROM scratch\nCOPY --from=plain /target /plain/\nCOPY --from=linked-1 /place /linked/\n",
        file="linked",
    )
    one, two = (builder.image(context, f"--opt=target=linked-{it}") for it in (1, 2))
    assert one.layers[-1].name == two.layers[-1].name
    assert one.layers[-2].name != two.layers[-2].name
    assert contents(one.layers[-1]) == {"place/file": b"linked"}
    # As documented, --link does not follow links in layers below; plain COPY does.
    assert text(builder.directory(context)) == {"plain/file": "linked", "linked/file": "linked"}
    plain = builder.image(context, "--opt=target=plain")
    assert contents(plain.layers[-1]) == {"target/file": b"linked"}


def test_copy_mode_and_owner(builder: Builder, new_context: NewContext) -> None:
    """COPY and ADD with --chmod and --chown: by number, by symbol, by name"""
    context = new_context(
        "FROM base AS work\n"
        "COPY --chmod=0641 one /got/number\n"
        "COPY --chmod=u=rwX,go=rX tree /got/symbol\n"
        "COPY --chown=user:user one /got/name\n"
        "COPY --chown=12:34 --chmod=4711 one /got/ids\n"
        "ADD --chown=user --chmod=600 one /got/add\n"
        "COPY one /got/plain\n"
        "RUN mkdir /out && cd /got && find * | sort | xargs stat -c '%n %a %u:%g' >/out/all\n"
        + ONLY_OUT,
        **{"one": "1", "tree/file": "2"},
    )
    (context / "one").chmod(0o604)
    for path, mode in (("tree", 0o700), ("tree/file", 0o600)):
        (context / path).chmod(mode)
    assert text(builder.directory(context))["all"].splitlines() == [
        "add 600 1000:1000", "ids 4711 12:34", "name 604 1000:1000", "number 641 0:0",
        "plain 604 0:0", "symbol 755 0:0", "symbol/file 644 0:0",
    ]  # fmt: skip


def test_copy_exclude_and_parents(builder: Builder, new_context: NewContext) -> None:
    """COPY --exclude omits files, and --parents keeps directories"""
    context = new_context(
        "FROM scratch\n"
        "COPY --exclude=*.o --exclude=**/deep/*.txt source /excluded/\n"
        "COPY --parents source/./*/deep source/a.c /parents/\n",
        **{f"source/{name}": name for name in ("a.c", "a.o", "sub/b.o", "sub/deep/c.txt")},
    )
    assert text(builder.directory(context)) == {
        "excluded/a.c": "a.c", "excluded/sub/b.o": "sub/b.o",
        "parents/sub/deep/c.txt": "sub/deep/c.txt", "parents/source/a.c": "a.c",
    }  # fmt: skip


def _archive(mode: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode=f"w:{mode}") as archive:  # type: ignore[call-overload]
        for name, content in (("inside/file", b"packed"), ("inside/other", b"too")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o640
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def test_add_archives(builder: Builder, new_context: NewContext) -> None:
    """ADD unpacks local archives of every compression; COPY does not"""
    zstd = _zstd(_archive(""))
    kinds = {"tar": _archive(""), "gz": _archive("gz"), "bz2": _archive("bz2"), "xz": _archive("xz"), "zst": zstd}  # fmt: skip
    adds = "".join(f"ADD archive.{kind} /{kind}/\n" for kind in kinds)
    context = new_context(
        f"FROM scratch\n{adds}COPY archive.gz /copied\nADD --unpack=false archive.xz /kept\n"
        "ADD plain /\n",
        plain="plain",
        **{f"archive.{kind}": content for kind, content in kinds.items()},
    )
    output = builder.directory(context)
    assert (output / "copied").read_bytes() == kinds["gz"]
    assert (output / "kept").read_bytes() == kinds["xz"]
    assert (output / "plain").read_text() == "plain"
    for kind in kinds:
        assert text(output / kind) == {"inside/file": "packed", "inside/other": "too"}
        assert (output / kind / "inside/file").stat().st_mode & 0o777 == 0o640


def _zstd(content: bytes) -> bytes:
    """Compress by zstd, which Python 3.11 lacks."""
    done = subprocess.run(["zstd", "-c"], input=content, capture_output=True, check=True)
    return done.stdout


def test_add_http(builder: Builder, new_context: NewContext, tmp_path: Path) -> None:
    """ADD from HTTP with a checksum; different content is refused"""
    served = tmp_path / "served"
    served.mkdir()
    (served / "file").write_text(secrets.token_hex())
    (served / "archive.tar.gz").write_bytes(_archive("gz"))
    digest = f"sha256:{hashlib.sha256((served / 'file').read_bytes()).hexdigest()}"
    with serving(served) as address:
        context = new_context(
            "FROM scratch\nARG ADDRESS\nARG DIGEST\nADD --checksum=$DIGEST $ADDRESS/file /\n"
            "ADD --unpack=true $ADDRESS/archive.tar.gz /unpacked/\nADD $ADDRESS/archive.tar.gz /\n"
        )
        opts = [f"--opt=build-arg:ADDRESS={address}"]
        output = builder.directory(context, *opts, f"--opt=build-arg:DIGEST={digest}")
        assert (output / "file").read_bytes() == (served / "file").read_bytes()
        assert tarfile.is_tarfile(output / "archive.tar.gz")
        assert text(output / "unpacked/inside") == {"file": "packed", "other": "too"}
        wrong = f"sha256:{'0' * 64}"
        builder.build(context, *opts, f"--opt=build-arg:DIGEST={wrong}").bad("digest mismatch")


@contextlib.contextmanager
def git_daemon(directory: Path) -> Iterator[str]:
    """Serve the repositories in a directory on the loopback; yields the address."""
    port = free_port()
    with process.child_process(
        ["git", "daemon", "--export-all", f"--base-path={directory}", f"--listen={LOOPBACK}",
         f"--port={port}", directory],
        stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        address = f"git://{LOOPBACK}:{port}"
        assert eventually(lambda: run("git", "ls-remote", f"{address}/repository").code == 0)
        yield address


def _commit(repository: Path, message: str) -> str:
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    run(*git, "add", "--all").good()
    run(*git, "commit", "--quiet", "--message", message).good()
    return run(*git, "rev-parse", "HEAD").good().stdout.strip()


def test_add_git(builder: Builder, new_context: NewContext, tmp_path: Path) -> None:
    """ADD of a git repository: branch, commit, subdirectory; another commit than the checksum is refused"""
    repository = tmp_path / "served" / "repository"
    (repository / "directory").mkdir(parents=True)
    run("git", "init", "--quiet", "--initial-branch=main", repository).good()
    (repository / "directory" / "file").write_text("old")
    old = _commit(repository, "one")
    (repository / "directory" / "file").write_text("new")
    (repository / "program").write_text("#!/bin/sh\n")
    (repository / "program").chmod(0o755)
    new = _commit(repository, "two")
    with git_daemon(repository.parent) as address:
        context = new_context(
            "FROM scratch\nARG REPOSITORY\nARG OLD\nARG NEW\n"
            "ADD --checksum=$NEW $REPOSITORY#main /branch\n"
            "ADD $REPOSITORY#$OLD /commit\n"
            "ADD $REPOSITORY#main:directory /directory\n"
            "ADD --keep-git-dir=true $REPOSITORY#main /kept\n"
        )
        opts = [f"--opt=build-arg:{it}" for it in (f"REPOSITORY={address}/repository", f"OLD={old}")]  # fmt: skip
        output = builder.directory(context, *opts, f"--opt=build-arg:NEW={new}")
        wrong = new_context(f"FROM scratch\nADD --checksum={old} {address}/repository#main /\n")
        builder.build(wrong).bad(f"expected checksum to match {old}, got {new}")
    assert text(output / "branch") == {"directory/file": "new", "program": "#!/bin/sh"}
    assert (output / "branch" / "program").stat().st_mode & 0o111
    assert text(output / "commit") == {"directory/file": "old"}
    assert text(output / "directory") == {"file": "new"}
    assert (output / "kept" / ".git" / "HEAD").exists()
    head = run("git", "-c", "safe.directory=*", "-C", output / "kept", "rev-parse", "HEAD").good()
    assert head.stdout.strip() == new


def test_git_context(builder: Builder, new_context: NewContext, tmp_path: Path) -> None:
    """A git repository as the build context; a missing repository is refused"""
    repository = tmp_path / "served" / "repository"
    repository.mkdir(parents=True)
    run("git", "init", "--quiet", "--initial-branch=main", repository).good()
    (repository / "Dockerfile").write_text("FROM scratch\nCOPY file /copied\n")
    (repository / "file").write_text("committed")
    _commit(repository, "one")
    (repository / "file").write_text("not committed")
    with git_daemon(repository.parent) as address:
        opt = f"--opt=context={address}/repository#main"
        assert text(builder.directory(new_context(""), opt)) == {"copied": "committed"}
        builder.build(new_context(""), f"--opt=context={address}/absent#main").bad("absent")


def test_dockerignore(builder: Builder, new_context: NewContext) -> None:
    """.dockerignore excludes files, with exceptions; one beside the Dockerfile has precedence"""
    names = ("a.txt", "a.log", "keep.log", "sub/b.log", "sub/b.txt", "sub/private/key")
    files = {name: name for name in names}
    ignore = "# comment\n*.log\n!keep.log\n**/private\nDockerfile*\n.dockerignore\n"
    context = new_context("FROM scratch\nCOPY . /\n", **files, **{".dockerignore": ignore})
    included = sorted(text(builder.directory(context)))
    assert included == ["a.txt", "keep.log", "sub/b.log", "sub/b.txt"]
    (context / "Dockerfile.dockerignore").write_text("*\n!a.*\n")
    assert sorted(text(builder.directory(context))) == ["a.log", "a.txt"]
    # An ignored file cannot be copied by name.
    (context / "Dockerfile").write_text("FROM scratch\nCOPY keep.log /\n")
    builder.build(context).bad("keep.log", "not found")


def test_cache_mounts(builder: Builder, new_context: NewContext) -> None:
    """Cache mounts keep their content between builds, by id, and are not in the image"""
    name = secrets.token_hex(4)
    context = new_context(
        "FROM base AS work\nARG TURN\nRUN mkdir /out\n"
        f"RUN --mount=type=cache,target=/cache,id={name} "
        "echo $TURN >>/cache/turns && cp /cache/turns /out/\n"
        f"RUN --mount=type=cache,target=/other,id={name}-other,uid=1000,mode=0700 "
        "ls /other >/out/other && stat -c '%u %a' /other >/out/owner\n"
        f"RUN --mount=type=cache,target=/cache,id={name},readonly "
        "! touch /cache/new 2>/dev/null\n"
        "RUN test ! -e /cache && test ! -e /other\n" + ONLY_OUT
    )
    for turns in (["1"], ["1", "2"]):
        assert text(builder.directory(context, f"--opt=build-arg:TURN={turns[-1]}")) == {
            "turns": "\n".join(turns), "other": "", "owner": "1000 700",
        }  # fmt: skip


def test_sharing_cache_mounts(builder: Builder, new_context: NewContext) -> None:
    """Parallel steps share a cache mount; with sharing=locked they run one after the other"""
    name = secrets.token_hex(4)
    alone = "mkdir /cache/busy && sleep 1 && rmdir /cache/busy && echo alone >/result"
    meet = (
        "touch /cache/$MY && for i in $(seq 3000); do [ -e /cache/$OTHER ] && break; sleep 0.1; done"
        "; ls /cache >/result"
    )
    for sharing, does, result in (("locked", alone, "alone"), ("shared", meet, "a\nb")):
        mount = f"--mount=type=cache,target=/cache,id={name}-{sharing},sharing={sharing}"
        context = new_context(
            f"FROM base AS a\nENV MY=a OTHER=b\nRUN {mount} {does}\n"
            f"FROM base AS b\nENV MY=b OTHER=a\nRUN {mount} {does}\n"
            "FROM scratch\nCOPY --from=a /result /a\nCOPY --from=b /result /b\n"
        )
        assert text(builder.directory(context)) == {"a": result, "b": result}


def test_tmpfs_mounts(builder: Builder, new_context: NewContext) -> None:
    """tmpfs mounts are in memory, with a size limit, and are empty in the next step"""
    context = new_context(
        "FROM base AS work\nRUN mkdir /out\n"
        "RUN --mount=type=tmpfs,target=/scratch,size=4m grep ' /scratch ' /proc/mounts >/out/mount"
        " && ! dd if=/dev/zero of=/scratch/big bs=1M count=8 2>/dev/null"
        " && stat -c %s /scratch/big >/out/size\n"
        "RUN --mount=type=tmpfs,target=/scratch ls -A /scratch >/out/next\n" + ONLY_OUT
    )
    reported = text(builder.directory(context))
    assert reported["mount"].startswith("tmpfs /scratch tmpfs rw,")
    assert reported["size"] == str(4 << 20)
    assert reported["next"] == ""


def test_bind_mounts(builder: Builder, new_context: NewContext) -> None:
    """Bind mounts of context and stages: read-only, or writable without saving changes"""
    context = new_context(
        "FROM base AS other\nRUN mkdir /made && echo made >/made/it\n"
        "FROM base AS work\nRUN mkdir /out\n"
        "RUN --mount=type=bind,target=/context --mount=type=bind,from=other,source=/made,target=/s "
        "cat /context/file /s/it >/out/read && ! touch /context/new 2>/out/refused\n"
        "RUN --mount=type=bind,target=/context,rw echo changed >/context/file"
        " && cat /context/file >/out/written\n"
        "RUN --mount=type=bind,target=/context cat /context/file >/out/again\n"
        "RUN test ! -e /context && test ! -e /s\n" + ONLY_OUT,
        file="original\n",
    )
    reported = text(builder.directory(context))
    assert "Read-only file system" in reported.pop("refused")
    assert reported == {
        "read": "original\nmade", "written": "changed", "again": "original",
    }  # fmt: skip


def _holders(directory: Path, needle: bytes) -> list[str]:
    """The files in a directory that contain some bytes."""
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and needle in path.read_bytes()
    ]


def test_secrets(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Secrets as file and variable are in the step only, not in the image or the daemon's state"""
    builder = Builder(new_daemon().start(), base, tmp_path)
    secret, witness = secrets.token_hex(), secrets.token_hex()
    (tmp_path / "secret").write_text(secret)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    check = f"sha256sum | grep -q {digest}"
    context = new_context(
        "FROM base AS work\nARG WITNESS\nRUN mkdir /out && echo $WITNESS >/out/witness\n"
        "RUN --mount=type=secret,id=token,mode=0440,uid=1000 "
        f"cat /run/secrets/token | {check} && stat -c '%a %u' /run/secrets/token >/out/file"
        " && grep ' /run/secrets/token ' /proc/mounts | cut -d' ' -f3 >>/out/file\n"
        f"RUN --mount=type=secret,id=token,env=TOKEN printf %s $TOKEN | {check}\n"
        f"RUN --mount=type=secret,id=token,target=/elsewhere cat /elsewhere | {check}\n"
        "RUN --mount=type=secret,id=optional test ! -e /run/secrets/optional\n"
        f'RUN test -z "$TOKEN" && test ! -e /run/secrets/token && test ! -s /elsewhere\n{ONLY_OUT}'
    )
    args = [f"--opt=build-arg:WITNESS={witness}", "--opt=attest:provenance=mode=max"]
    with_secret = f"--secret=id=token,src={tmp_path / 'secret'}"
    reported = text(builder.directory(context, *args, with_secret))
    assert reported["file"] == "440 1000\ntmpfs"
    assert reported["witness"] == witness
    dest = builder.place("layout")
    output = f"--output=type=oci,tar=false,dest={dest}"
    builder.build(context, "--opt=target=work", *args, with_secret, output).good()
    blobs = b"".join(decompressed(path) for path in (dest / "blobs/sha256").iterdir())
    assert witness.encode() in blobs
    assert secret.encode() not in blobs
    # A secret from an environment variable.
    env = {"MY_TOKEN": secret}
    builder.build(context, "--no-cache", "--secret=id=token,env=MY_TOKEN", env=env).good()
    assert _holders(builder.daemon.root, witness.encode())
    assert _holders(builder.daemon.root, secret.encode()) == []
    assert secret not in builder.daemon.log


def test_missing_required_secret(builder: Builder, new_context: NewContext) -> None:
    """A missing required secret makes the build fail"""
    context = new_context("FROM base\nRUN --mount=type=secret,id=token,required true\n")
    builder.build(context).bad("secret token: not found")


def _with_libraries(program: str) -> dict[str, bytes]:
    """A program of this machine with its shared libraries, by path."""
    path = process.which(program)
    assert path
    libraries = re.findall(r"(/\S+) \(0x", run("ldd", path).good().stdout)
    return {f"root{it}": Path(it).read_bytes() for it in (f"/usr/bin/{program}", *libraries)}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The socket of a real ssh-agent, and the public key of its only key."""
    key = tmp_path / "id_ed25519"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "scenario", "-f", key).good()
    with tempfile.TemporaryDirectory(prefix="ssh-") as short:
        socket = Path(short) / "agent"
        with process.child_process(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL):
            assert eventually(socket.exists)
            run("ssh-add", "-q", key, env={"SSH_AUTH_SOCK": str(socket)}).good()
            key.unlink()
            yield socket, key.with_suffix(".pub").read_text()


def test_ssh_mounts(builder: Builder, new_context: NewContext, agent: tuple[Path, str]) -> None:
    """ssh mounts: a step signs with a key of an ssh-agent outside the build"""
    socket, public = agent
    context = new_context(
        "FROM base AS work\nCOPY --chmod=755 root /\nCOPY key.pub /\nRUN mkdir /out\n"
        "RUN --mount=type=ssh,required ssh-add -L >/out/keys && ssh-add -T /key.pub"
        " && echo $SSH_AUTH_SOCK >/out/socket\n"
        'RUN test -z "$SSH_AUTH_SOCK" && ! ssh-add -L 2>/out/without\n'
        "RUN test ! -e /run/buildkit/ssh_agent.0\n" + ONLY_OUT,
        **{"key.pub": public, **_with_libraries("ssh-add")},
    )
    reported = text(builder.directory(context, f"--ssh=default={socket}"))
    assert reported["keys"] == public.strip()
    assert reported["socket"].startswith("/run/buildkit/ssh_agent")
    assert "Could not open a connection" in reported["without"]
    builder.build(context, "--no-cache").bad("ssh")


def test_config(builder: Builder, new_context: NewContext) -> None:
    """Container settings of a Dockerfile are in the image's configuration, and RUN applies them"""
    context = new_context(
        "FROM base\n"
        "ENV ONE=1 PATH=/opt/bin:/bin\nENV TWO=${ONE}2\n"
        "WORKDIR /place\nWORKDIR deeper\nUSER user\n"
        'LABEL org.example.name="a label" other=two\nEXPOSE 80 53/udp\nVOLUME /data\n'
        "STOPSIGNAL SIGUSR1\nHEALTHCHECK --interval=7s --retries=2 CMD true\n"
        'ENTRYPOINT ["/bin/echo", "-n"]\nCMD ["hello"]\nONBUILD RUN echo later\n'
        "RUN test $PWD = /place/deeper && test $(id -u) = 1000 && test $TWO = 12\n"
    )
    got = builder.image(context).config
    assert got["architecture"] == str(Architecture.here())
    config = got["config"]
    assert {"ONE=1", "TWO=12", "PATH=/opt/bin:/bin"} == set(config["Env"])
    assert config["WorkingDir"] == "/place/deeper"
    assert config["User"] == "user"
    assert config["Labels"] == {"org.example.name": "a label", "other": "two"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert set(config["Volumes"]) == {"/data"}
    assert config["StopSignal"] == "SIGUSR1"
    check = config["Healthcheck"]
    assert check["Test"] == ["CMD-SHELL", "true"]
    assert (check["Interval"], check["Retries"]) == (7_000_000_000, 2)
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/echo", "-n"], ["hello"])
    assert config["OnBuild"] == ["RUN echo later"]
    history = [one["created_by"] for one in got["history"]]
    assert any("RUN" in line and "id -u" in line for line in history)


def test_named_contexts(builder: Builder, new_context: NewContext, base: BaseImage) -> None:
    """Named contexts: a directory, an image in an OCI layout, and a replacement for a stage"""
    other = new_context("", greeting="from a directory")
    image = builder.image(new_context("FROM base\nRUN echo from an image >/greeting\n"))
    context = new_context(
        "FROM base AS replaced\nRUN exit 1\n"
        "FROM scratch\nCOPY --from=directory greeting /directory\nCOPY --from=image greeting /image\n"
        "COPY --from=replaced greeting /stage\n"
    )
    output = builder.directory(
        context,
        f"--local=extra={other}", "--opt=context:directory=local:extra",
        "--opt=context:replaced=local:extra",
        f"--oci-layout=made={image.layout}",
        f"--opt=context:image=oci-layout://made@{image.digest}",
    )  # fmt: skip
    assert text(output) == {
        "directory": "from a directory", "image": "from an image", "stage": "from a directory",
    }  # fmt: skip
    # A wrong digest of a layout is refused.
    wrong = f"sha256:{hashlib.sha256(layout.blob(base.layout, base.digest).read_bytes() + b' ').hexdigest()}"  # fmt: skip
    builder.build(
        context, f"--oci-layout=made={image.layout}",
        f"--opt=context:image=oci-layout://made@{wrong}",
    ).bad(wrong)  # fmt: skip


def test_network(builder: Builder, new_context: NewContext, tmp_path: Path) -> None:
    """RUN --network=none has only a loopback; by default RUN has a network"""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "page").write_text("reached")
    with serving(tmp_path / "served") as address:
        context = new_context(
            "FROM base AS work\nARG ADDRESS\nRUN mkdir /out\n"
            "RUN wget -q -O /out/page $ADDRESS/page\n"
            "RUN --network=none ! wget -q -T 5 -O /dev/null $ADDRESS/page 2>/out/refused"
            " && ls /sys/class/net >/out/interfaces\n" + ONLY_OUT
        )
        reported = text(builder.directory(context, f"--opt=build-arg:ADDRESS={address}"))
    assert reported["page"] == "reached"
    assert reported["interfaces"] == "lo"
    assert "refused" in reported["refused"] or "unreachable" in reported["refused"]
