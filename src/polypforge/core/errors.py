"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input or a bad request: one sentence that names what is wrong and how to mend it.

    The command line prints the sentence and exits with code 2; it never prints a traceback for it.
    """
