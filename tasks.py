"""The tasks: `invoke --list` shows them, `invoke TASK --help` explains one."""

from invoke.collection import Collection

from benchmarks import tasks as benchmarks
from buildkit_riscv64 import config, house
from buildkit_riscv64.automation import tasks as automation
from buildkit_riscv64.binaries import tasks as binaries
from buildkit_riscv64.image import tasks as image
from buildkit_riscv64.machine import tasks as machine
from buildkit_riscv64.validation import tasks as validation

ns = Collection(
    house.doctor,
    house.test,
    binaries.build_binaries,
    binaries.check_binaries,
    binaries.verify_binaries,
    image.build_image,
    image.check_image,
    image.push_image,
    image.certs,
    validation.validate,
    benchmarks.benchmark,
    automation.status,
    automation.build_packages,
    automation.publish_repo,
    automation.release,
    automation.track_releases,
    automation.report_build,
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
    source=Collection(
        binaries.source_update_go,
        show=binaries.source_show,
        update=binaries.source_update,
    ),
)
ns.configure(config.DEFAULTS)
