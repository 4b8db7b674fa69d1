"""The one exception, and the one warning, that a user is meant to read."""


class SaccadeError(Exception):
    """A problem the user can fix: one line that names the value, the limit and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class SaccadeWarning(UserWarning):
    """Something went on in another way than asked, or was left out: one line. The command line prints it."""


def printable(text: str) -> str:
    """The text on one line: what a terminal would obey instead of showing is written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
