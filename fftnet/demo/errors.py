"""What a user can mend when a page is made or served."""

from fftnet.errors import UserError


class DemoError(UserError, ValueError):
    """A page can't be made or served; the message says why and the way out."""
