"""The one exception this module raises for bad input."""


class InputError(ValueError):
    """Bad input, said as a sentence for people: what is wrong, where, and what to do about it."""
