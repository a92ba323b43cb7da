"""Base class of the errors that a user can act on."""


class JepaArmError(Exception):
    """An expected failure whose message says what was expected, what was received and what to do.

    The command line prints its message as one line. Any other exception is a bug and keeps its
    traceback.
    """
