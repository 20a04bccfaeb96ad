"""What a build says that ended with an error. tests/box/test_build_failures.py has the compiler's own output."""

from __future__ import annotations

from llamarig.remote.build.build_release import compiler_failure
from llamarig.remote.shared.job_status import JobFailedError, StoppedError

COMMIT = "4df29be4f4c3673f428170fda944a5b19f743bb8"


def test_a_build_that_was_stopped_is_no_fault_of_the_commit() -> None:
    """Regression: it advised another commit. The line is ninja 1.12's, as the box was shut down."""
    stopped = compiler_failure(COMMIT, [], "ninja: build stopped: interrupted by user.\n")
    assert isinstance(stopped, StoppedError), stopped


def test_a_compiler_error_is_shown_without_the_command() -> None:
    failing = ["FAILED: src/x.o", "/usr/bin/c++ -O3 -c x.cpp", "x.cpp:1:1: error: 'nonsense' was not declared"]
    failure = compiler_failure(COMMIT, failing, "ninja: build stopped: subcommand failed.\n")
    assert "did not compile: declare another commit" in str(failure)
    assert isinstance(failure, JobFailedError)
    assert failure.lines == [failing[0], failing[2]]
