"""Does this chest X-ray network look at the disease, or at the scanner?"""

from __future__ import annotations

__version__ = "0.2.0.dev0"


class InputError(ValueError):
    """Bad input, said as a sentence for people: what is wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the sentence alone."""
        return [f"InputError: {self}"]
