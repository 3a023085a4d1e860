"""The table of training objectives. A new one is a file here and a line in the table."""

from fftnet.tasks.masked_token import MaskedToken
from fftnet.tasks.next_token import NextToken

TASKS: dict[str, type[NextToken] | type[MaskedToken]] = {
    "next_token": NextToken,
    "masked_token": MaskedToken,
}
