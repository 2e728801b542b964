"""Phase 3: run the scenarios in `scenarios/`, and publish the evidence."""
