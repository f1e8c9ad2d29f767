"""What all tests share."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """A shell that runs the tests in the background ignores Ctrl-C, which their child processes would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
