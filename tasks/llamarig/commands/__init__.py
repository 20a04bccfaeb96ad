"""The commands that a user runs: deploy, audit, plan, bench, lock, prune, rollback."""
