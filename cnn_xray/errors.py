"""The one exception this module raises for bad input."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, said as a sentence for people: what is wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the sentence alone."""
        return [f"InputError: {self}"]
