"""Phase 2: the image, root and rootless, with the binaries of phase 1.

:mod:`.packages` resolves Debian's packages, :mod:`.base_image` provides the image that
unpacks them, :mod:`.engines` runs the Dockerfile, :mod:`.build` publishes the artifacts,
:mod:`.check` checks them and runs them (:mod:`.container`), :mod:`.push` pushes them.
"""
