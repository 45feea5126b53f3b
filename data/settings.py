"""The base of every typed configuration."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Typed settings of one component: unknown keys, NaN and infinities are refused; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
