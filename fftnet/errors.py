"""The one base of all errors that a user can mend."""


class UserError(Exception):
    """Something that a user can mend; the message is one sentence that says what is wrong and the way out.

    The command line prints it and ends with status 2. Each room has a subclass of its own.
    """
