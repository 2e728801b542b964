"""Phase 4: upstream releases, pins and issues."""
