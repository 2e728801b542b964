# The same content built the usual way: Debian's slim image, apt with recommended
# practice, and the same binaries.
FROM base AS root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates fuse-overlayfs git iptables openssh-client pigz runc tini xz-utils \
    && rm -rf /var/lib/apt/lists/*
COPY --from=binaries --chmod=755 buildctl buildkitd /usr/bin/
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "buildkitd"]

FROM base AS rootless
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates fuse-overlayfs git iptables openssh-client pigz rootlesskit runc \
        slirp4netns tini uidmap xz-utils \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user
COPY --from=binaries --chmod=755 buildctl buildkitd /usr/bin/
USER 1000:1000
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "rootlesskit", "buildkitd"]
