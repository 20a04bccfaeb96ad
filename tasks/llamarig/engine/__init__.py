"""Run items on hosts: read facts, converge, watch jobs, report."""
