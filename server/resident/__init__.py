"""Rounds of a simulation without messages: clients train in turn on students that stay in their processes."""
