"""The layers of this package, from the lowest: a module imports from its own layer or a lower one.

The front, above all layers, is the command line, `doctor.py`, the `tasks.py` modules and the
scenarios. A test enforces this, and `docs/architecture.md` shows it.
"""

#: Packages and contents of each layer.
LAYERS = (
    (("core",), "processes, errors, console, configuration, files, dist/, pins"),
    (("system",), "the host: packages, Debian, binfmt_misc, checks"),
    (("binaries",), "phase 1: compile and verify the binaries"),
    (("buildkitd",), "a running daemon and its certificates"),
    (("image",), "phase 2: build, check and push the images"),
    (("validation",), "phase 3: suites, scenarios, their environment, the evidence"),
    (("packages",), "phase 4: deb and rpm, and their repositories"),
    (("machine",), "emulated machines and boards"),
    (("upstream",), "phase 4: GitHub, upstream's releases, the pins"),
    (("release",), "phase 4: state of every phase, and the release"),
    (("testing",), "`invoke test`: capabilities of the host, counts"),
)
