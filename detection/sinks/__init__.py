"""Where verdicts go: a module a sink, behind the interface in `detection.sinks.interface`."""
