"""The message: from MIME bytes to the JSON of ``POST /v1/send``."""

from ingress.message.parser import Limits, ParsedMessage, parse

__all__ = ["Limits", "ParsedMessage", "parse"]
