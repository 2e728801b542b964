"""Phase 4: deb and rpm packages, and their signed repositories."""
