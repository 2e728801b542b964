"""Phase 4: release status and the release on GitHub."""
