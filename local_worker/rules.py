"""Rules that fix an effort before the model is asked: frozen, and refused with a key too many.

Both the catalog and the operator (`--effort-rules FILE`) write them; `reasoning.routing` applies
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from local_worker import documents

if TYPE_CHECKING:
    from pathlib import Path

Level = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Record):
    """What a request must be like; whatever is said here has to hold.

    Attributes:
        model: the name that the request calls the model by: a route.
        response_format: its type; `text` also where the request says nothing.
        prompt_tokens_above: the prompt has more.
        prompt_tokens_below: the prompt has fewer.
        metadata: keys of the request's metadata and their values.
    """

    model: str | None = None
    response_format: Literal["text", "json_object", "json_schema"] | None = None
    prompt_tokens_above: Count | None = None
    prompt_tokens_below: Count | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_something_is_said(self) -> When:
        if self == When.model_construct():
            raise ValueError("`when` says nothing; a rule for everything is `--effort LEVEL`")
        return self


class EffortRule(_Record):
    """An effort for the requests that it fits.

    Attributes:
        name: for responses and metrics.
    """

    name: str = Field(min_length=1, max_length=64)
    when: When
    effort: Level


_RULES = TypeAdapter(tuple[EffortRule, ...])


def read_rules(path: Path) -> tuple[EffortRule, ...]:
    """The rules of a YAML file, a list.

    Raises:
        ConfigError: it cannot be read, or is no list of rules.
    """
    return documents.read(_RULES, path, f"--effort-rules {path}")
