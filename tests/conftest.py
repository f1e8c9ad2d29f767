"""What all tests share."""

import os
import signal

import pytest

# Networks of a second or two are trained one after another: a process to train them in takes longer to start.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """A shell that runs the tests in the background ignores Ctrl-C, which their child processes would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Browser tests run only where they are asked for."""
    if "browser" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
