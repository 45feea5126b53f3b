"""Who judges: the settings of an endpoint with OpenAI's chat API, wherever one may be named."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from data.errors import InputError
from data.settings import Settings

if TYPE_CHECKING:
    from pipeline.judges import Endpoint


class JudgeSettings(Settings):
    """An endpoint and how it is asked; there is none without `url`."""

    url: Annotated[
        str,
        Field(description="endpoint up to /chat/completions, such as http://localhost:8000/v1; empty is off"),
    ] = ""
    model: Annotated[str, Field(description="the judge's name at the endpoint")] = ""
    api_key_variable: Annotated[
        str, Field(description="NAME of the environment variable that holds the key; empty sends none")
    ] = ""
    temperature: Annotated[
        float | None, Field(ge=0, description="of the judge; null leaves it to the endpoint")
    ] = 0.0
    max_tokens: Annotated[
        int | None, Field(gt=0, description="longest reply, tokens; null leaves it to the endpoint")
    ] = 256
    timeout_seconds: Annotated[float, Field(gt=0, description="longest time for one call")] = 60.0
    num_retries: Annotated[
        int, Field(ge=0, le=20, description="further tries after a call that failed for a passing reason")
    ] = 3
    retry_seconds: Annotated[
        float, Field(ge=0, description="wait before the second try; doubled for each further one")
    ] = 1.0
    num_parallel: Annotated[int, Field(gt=0, le=64, description="calls at a time")] = 4

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("url must begin with http:// or https:// and name a host")
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                "url must hold no user, password or query, as settings are kept in files; "
                "name the variable that holds the key in api_key_variable"
            )
        return url

    @field_validator("api_key_variable")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", name):
            raise ValueError(
                "api_key_variable must be the NAME of an environment variable, in capitals, and never the key"
            )
        return name

    @model_validator(mode="after")
    def _whole(self) -> JudgeSettings:
        if bool(self.url) != bool(self.model):
            raise ValueError("url and model go together: give both for an endpoint, or none")
        if self.api_key_variable and not self.url:
            raise ValueError("api_key_variable has no effect without url")
        return self

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint with its key; `name` is that of these settings, for messages.

        Raises:
            InputError: the variable that should hold the key is not set, or holds none.
        """
        from pipeline.judges import Endpoint

        variable = self.api_key_variable
        secret = os.environ.get(variable, "").strip() if variable else ""
        if variable and not secret:
            raise InputError(
                f"{name}.api_key_variable: the environment has no {variable}; set it to the key, or leave the "
                "setting out for an endpoint without keys"
            )
        if not (secret.isascii() and secret.isprintable()):
            raise InputError(
                f"{name}.api_key_variable: what {variable} holds is no key: it has line breaks or letters beyond "
                "ASCII; set it again"
            )
        return Endpoint(
            self.url,
            self.model,
            secret,
            self.temperature,
            self.max_tokens,
            self.timeout_seconds,
            self.num_retries,
            self.retry_seconds,
            self.num_parallel,
        )
