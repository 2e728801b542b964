"""The host: packages, Debian, binfmt_misc, host checks."""
