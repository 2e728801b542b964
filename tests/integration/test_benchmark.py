"""`invoke benchmark` on real daemons: quick cases, with the same binaries as baseline.

BUILDKIT_TEST_DIST sets the dist/ directory with the binaries.
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
from buildkit_riscv64.binaries import pgo
from buildkit_riscv64.core import host
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import BuildError
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .miniature import Project, refused, remove, succeeded

pytestmark = [pytest.mark.integration, pytest.mark.image]

# The last case keeps the daemon busy long enough for the profiler.
CASES = ("--only=size-buildctl,daemon-start,export-estargz", "--count=1")


@pytest.fixture
def project(upstream_project: Project, upstream_target: Path, tmp_path: Path) -> Iterator[Project]:
    """A checkout with real binaries and without results; a run must leave no files."""
    results = upstream_project.root / "benchmarks" / "results"
    if results.exists():
        remove(results)
    (tmp_path / "work").mkdir()
    yield Project(upstream_project.root, {**upstream_project.env, "TMPDIR": str(tmp_path / "work")})
    assert not list((tmp_path / "work").iterdir())


def test_comparison_with_itself(project: Project, upstream_target: Path, tmp_path: Path) -> None:
    profile, output = tmp_path / "cpu.pprof", tmp_path / "report"
    for number in (1, 2):
        done = project.invoke(
            "benchmark", f"--baseline={upstream_target}", *CASES, "--json",
            f"--output={output}", f"--profile={profile}", timeout=BOUND,
        )  # fmt: skip
        reported = succeeded(done).json
        (path,) = (project.root / "benchmarks" / "results").iterdir()
        runs = records.load(path)["runs"]
        assert len(runs) == number
    ratios = reported.pop("ratios")
    assert runs[-1] == reported
    label = Target.here().name
    assert [one["label"] for one in reported["binaries"]] == ["ours", label]
    ours, theirs = (one["sha256"] for one in reported["binaries"])
    assert ours == theirs
    assert reported["host"] == host.facts().as_json()
    size, start, export = reported["cases"]
    assert size["samples"]["ours"] == size["samples"][label]
    for case in (start, export):
        assert case["samples"].keys() == {"ours", label}
        for (sample,) in case["samples"].values():
            assert sample["seconds"] > 0.01
            assert sample["cpu_seconds"] > 0
            assert 10 << 20 < sample["peak_bytes"] < 1 << 30
    by_name = {(one["case"], one["metric"]): one for one in ratios}
    assert by_name["size-buildctl", "size_bytes"]["median"] == 1
    assert {one["verdict"] for one in ratios} == {"none shown", "too few runs"}
    page = (output / "index.html").read_text()
    assert page.count(f"ours against {label}") == 1
    assert "<svg" in page
    assert "<script" not in page
    assert "Over time" in page
    assert pgo.read(profile).content


def test_killed_run_leaves_no_files(project: Project, tmp_path: Path) -> None:
    with project.started("benchmark", "--only=high-parallelization-16x") as run:
        assert eventually(lambda: list((tmp_path / "work").rglob("state-*/runc-*")))
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        project.no_strays()
        assert eventually(lambda: not list((tmp_path / "work").iterdir()))
    assert not (project.root / "benchmarks" / "results").exists()


def test_invalid_comparisons(project: Project, tmp_path: Path) -> None:
    refused(project.invoke("benchmark", "--only=none"), 2, "--only none")
    refused(project.invoke("benchmark", "--baseline=./none"), 2, "--baseline ./none")
    refused(project.invoke("benchmark", "--profile=/none/x"), 2, "--profile /none/x")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("buildkitd", "buildctl"):
        (broken / name).write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        (broken / name).chmod(0o755)
    done = project.invoke("benchmark", f"--baseline={broken}", *CASES, timeout=BOUND)
    refused(done, 6, "buildkitd does not answer: broken")
    assert not (project.root / "benchmarks" / "results").exists()
    assert (
        json.loads(succeeded(project.invoke("--dry", "benchmark", "--json")).stdout or "{}") == {}
    )


def test_real_perf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page faults, which Linux counts on every processor: one for each new page."""
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

        with pytest.raises(BuildError, match="<not counted>"):
            faults(0)
        faults(1)
        # Faults before the block are not counted.
        assert faults(6) == pytest.approx(6 * faults(1), rel=0.1)
        asked.close()
