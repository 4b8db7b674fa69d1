"""The one exception a user is meant to read."""


class SaccadeError(Exception):
    """A problem the user can fix: one line that names the value, the limit and the fix.

    The command line prints it without a traceback and exits with status 2.
    """
