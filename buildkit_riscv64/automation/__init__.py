"""Phase 4: it maintains itself: releases tracked, packages, repositories, releases."""
