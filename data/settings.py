"""The base of every typed configuration."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Typed settings of one component: unknown keys, NaN and infinities are refused; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def refuse_without_effect(self, names: tuple[str, ...], *, setting: str, value: str) -> None:
        """Refuse settings that differ from their defaults and have no effect unless `setting` is `value`.

        They are compared with the defaults, so that a resolved recipe, which names every setting, loads again.

        Raises:
            ValueError: one of `names` was given, and `setting` is something else.
        """
        found, fields = getattr(self, setting), type(self).model_fields
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given and found != value:
            raise ValueError(f"{min(given)} has no effect with {setting}: {found}; use {setting}: {value}")
