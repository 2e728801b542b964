"""The collection of all tasks: `invoke --list` and `invoke TASK --help` describe them."""

from invoke.collection import Collection

from benchmarks import tasks as benchmarks
from buildkit_riscv64 import tasks
from buildkit_riscv64.binaries import tasks as binaries
from buildkit_riscv64.core import config
from buildkit_riscv64.image import tasks as image
from buildkit_riscv64.machine import tasks as machine
from buildkit_riscv64.packages import tasks as packages
from buildkit_riscv64.release import tasks as release
from buildkit_riscv64.upstream import tasks as upstream
from buildkit_riscv64.validation import tasks as validation

ns = Collection(
    tasks.doctor,
    tasks.test,
    binaries.build_binaries,
    binaries.check_binaries,
    binaries.verify_binaries,
    image.build_image,
    image.check_image,
    image.push_image,
    image.create_certs,
    validation.validate,
    benchmarks.benchmark,
    release.status,
    packages.build_packages,
    packages.publish_repo,
    release.release,
    release.verify_release,
    upstream.track_releases,
    upstream.notify_build,
    machine.on,
    machine=Collection(
        machine.create,
        machine.start,
        machine.stop,
        machine.status,
        machine.list_,
        machine.ssh,
        machine.logs,
        machine.reset,
        machine.destroy,
    ),
    evidence=Collection(show=validation.evidence_show),
    pins=Collection(
        upstream.pins_update_go,
        show=upstream.pins_show,
        update=upstream.pins_update,
    ),
)
ns.configure(config.DEFAULTS)
