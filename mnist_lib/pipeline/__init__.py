"""What keeps records and pages current: staleness, execution, workers, verification."""
