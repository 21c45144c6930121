"""What all sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: frozen, strict; an unknown key is an error, as is a wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
