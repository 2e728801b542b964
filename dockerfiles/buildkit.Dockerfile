# BuildKit's image and its rootless variant; `invoke build-image` builds them.
#
#   base       unpacks packages: debian:trixie-slim, or a root file system with the
#              packages in packages/tools; nothing of it enters the image
#   packages   .deb files of packages/root and packages/rootless, and lists of them
#   binaries   buildkitd and buildctl, natively compiled and checked
#
# No step has network access or runs scripts of packages: these directories are
# the only input, and the same input gives the same image.

FROM base AS unpacked
RUN --network=none \
    --mount=type=bind,source=packages,target=/lists \
    --mount=type=bind,from=packages,target=/packages \
    /lists/unpack /packages/root /image && /lists/complete /image

# Debian's setuid newuidmap would need CAP_SYS_ADMIN, which docker does not
# grant. A file capability works without it.
FROM base AS unpacked-rootless
RUN --network=none \
    --mount=type=bind,source=packages,target=/lists \
    --mount=type=bind,from=packages,target=/packages \
    /lists/unpack /packages/rootless /image \
    && /lists/unpack /packages/helpers /helpers \
    && /helpers/usr/sbin/setcap cap_setuid+ep /image/usr/bin/newuidmap \
    && /helpers/usr/sbin/setcap cap_setgid+ep /image/usr/bin/newgidmap \
    && install -d -m 700 -o 1000 -g 1000 /image/run/user/1000 \
    && cd /image && mkdir home \
    && install -d -o 1000 -g 1000 home/user home/user/.local home/user/.local/share \
        home/user/.local/share/buildkit home/user/.local/tmp

# A checkout's file modes depend on the umask of the user who cloned it, and
# Debian's default has changed.
FROM scratch AS configuration
# COPY would also set the directory's mode.
WORKDIR /etc
COPY --chmod=644 common/etc/* /etc/
COPY --chmod=755 common/usr/bin/* /usr/bin/

# The most stable layer comes first.
FROM scratch AS common
COPY --from=unpacked /image /
COPY --from=binaries --chmod=755 buildctl buildkitd /usr/bin/
COPY --from=configuration / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ARG TITLE
ARG VERSION
ARG REVISION
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="$TITLE" \
      org.opencontainers.image.description="BuildKit, compiled natively and tested on the architecture it is for" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.licenses="Apache-2.0"
# -s: under the init of an engine tini is not process 1, and needs the option to adopt orphans.
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/usr/bin/buildkitd-entrypoint"]
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --start-interval=2s \
    CMD ["buildctl", "debug", "workers"]

FROM common AS root
# The daemon leaves the cgroup above those of builds.
ENV BUILDKIT_SETUP_CGROUPV2_ROOT=1
VOLUME /var/lib/buildkit

FROM common AS rootless
COPY --from=unpacked-rootless /image /
COPY --chmod=644 rootless/etc/* /etc/
# A number, which Kubernetes needs for runAsNonRoot.
USER 1000:1000
ENV HOME=/home/user USER=user
ENV XDG_RUNTIME_DIR=/run/user/1000 TMPDIR=/home/user/.local/tmp
ENV BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock
VOLUME /home/user/.local/share/buildkit
