"""`invoke benchmark` on real daemons: two small cases, the same binaries on both sides.

With BUILDKIT_TEST_DIST, the binaries are those of that dist/.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import instructions, records
from buildkit_riscv64 import host
from buildkit_riscv64.arch import Target
from buildkit_riscv64.binaries import pgo
from buildkit_riscv64.errors import BuildError

from ..processes import BUILD_BOUND, eventually
from .miniature import Project, refused, remove, succeeded

pytestmark = [pytest.mark.integration, pytest.mark.image]

# The last keeps the daemon busy for long enough to be found at it by the profiler.
CASES = ("--only=size-buildctl,daemon-start,export-estargz", "--count=1")


@pytest.fixture
def project(upstream_project: Project, upstream_target: Path, tmp_path: Path) -> Iterator[Project]:
    """A checkout with real binaries and no results; nothing is left of a run."""
    results = upstream_project.root / "benchmarks" / "results"
    if results.exists():
        remove(results)
    (tmp_path / "work").mkdir()
    yield Project(upstream_project.root, {**upstream_project.env, "TMPDIR": str(tmp_path / "work")})
    assert not list((tmp_path / "work").iterdir())


def test_a_comparison_with_itself(project: Project, upstream_target: Path, tmp_path: Path) -> None:
    profile, output = tmp_path / "cpu.pprof", tmp_path / "report"
    for number in (1, 2):
        done = project.invoke(
            "benchmark", f"--against={upstream_target}", *CASES, "--json",
            f"--output={output}", f"--profile={profile}", timeout=BUILD_BOUND,
        )  # fmt: skip
        told = succeeded(done).json
        (path,) = (project.root / "benchmarks" / "results").iterdir()
        kept = records.load(path)["runs"]
        assert len(kept) == number
    ratios = told.pop("ratios")
    assert kept[-1] == told
    label = Target.here().name
    assert [one["label"] for one in told["binaries"]] == ["ours", label]
    ours, theirs = (one["sha256"] for one in told["binaries"])
    assert ours == theirs
    assert told["host"] == host.facts().as_json()
    size, start, export = told["cases"]
    assert size["samples"]["ours"] == size["samples"][label]
    for case in (start, export):
        assert case["samples"].keys() == {"ours", label}
        for (sample,) in case["samples"].values():
            assert 0.01 < sample["seconds"] < BUILD_BOUND
            assert 0 < sample["cpu_seconds"] < BUILD_BOUND
            assert 10 << 20 < sample["peak_bytes"] < 1 << 30
    by_name = {(one["case"], one["metric"]): one for one in ratios}
    assert by_name["size-buildctl", "size_bytes"]["median"] == 1
    assert {one["verdict"] for one in ratios} == {"none shown", "too few runs"}
    page = (output / "index.html").read_text()
    assert page.count(f"ours against {label}") == 2
    assert "<svg" in page
    assert "<script" not in page
    assert "Over time" in page
    assert pgo.read(profile).content


def test_killed_it_leaves_nothing(project: Project, tmp_path: Path) -> None:
    with project.started("benchmark", "--only=high-parallelization-16x") as run:
        assert eventually(lambda: list((tmp_path / "work").rglob("state-*/runc-*")), BUILD_BOUND)
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        project.no_strays()
        assert eventually(lambda: not list((tmp_path / "work").iterdir()), 60)
    assert not (project.root / "benchmarks" / "results").exists()


def test_what_cannot_be_compared(project: Project, tmp_path: Path) -> None:
    refused(project.invoke("benchmark", "--only=none"), 2, "no such case")
    refused(project.invoke("benchmark", "--against=./none"), 2, "no buildkitd and buildctl")
    refused(project.invoke("benchmark", "--profile=/none/x"), 2, "no such folder")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("buildkitd", "buildctl"):
        (broken / name).write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        (broken / name).chmod(0o755)
    done = project.invoke("benchmark", f"--against={broken}", *CASES, timeout=BUILD_BOUND)
    refused(done, 6, "buildkitd does not answer: broken")
    assert not (project.root / "benchmarks" / "results").exists()
    assert (
        json.loads(succeeded(project.invoke("--dry", "benchmark", "--json")).stdout or "{}") == {}
    )


def test_counting_with_the_real_perf(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Linux counts itself, on any processor: faults, one for each page that is new."""
    monkeypatch.setattr(instructions, "EVENT", "page-faults:u")
    work = "pages = bytearray(40 << 20); pages[::4096] = pages[1::4096]; del pages"
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfor _ in sys.stdin: {work}; print(flush=True)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    ) as child:  # fmt: skip
        asked, answer = child.stdin, child.stdout
        assert asked is not None
        assert answer is not None

        def faults(times: int) -> int:
            with instructions.counting(child.pid) as count:
                for _ in range(times):
                    asked.write(b"\n")
                    answer.readline()
            return count.instructions

        with pytest.raises(BuildError, match="counted nothing: <not counted>"):
            faults(0)
        faults(1)
        # What was before the block is not counted.
        assert faults(6) == pytest.approx(6 * faults(1), rel=0.1)
        asked.close()
