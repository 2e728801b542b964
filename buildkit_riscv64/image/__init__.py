"""Phase 2: the image, root and rootless, made of the binaries of phase 1.

:mod:`.packages` finds Debian's packages and :mod:`.tools` what unpacks them;
:mod:`.engines` runs the Dockerfile, :mod:`.build` makes of that the artifacts,
:mod:`.check` looks at them and runs them (:mod:`.container`), :mod:`.push`
takes them to a registry. :mod:`.certs` makes certificates for serving TCP.
"""
