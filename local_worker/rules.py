"""What people write down about effort: frozen, and refused with a key too many.

Rules that fix an effort before the model is asked, when a thought may end early, and a model's own
table of budgets. The catalog has them, and operators do (`--effort-rules`, `--calibration`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, get_args

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
        tools: whether it offers any that may be called.
        after_tool: whether its last message is the result of a call.
        prompt_tokens_above: the prompt has more.
        prompt_tokens_below: the prompt has fewer.
        metadata: keys of the request's metadata and their values.
    """

    model: str | None = None
    response_format: Literal["text", "json_object", "json_schema"] | None = None
    tools: bool | None = None
    after_tool: bool | None = None
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


class EarlyExit(_Record):
    """When a thought may end before its budget: where its answer is settled already.

    Where a line begins with one of the markers, the thought is closed for a trial: if the model is
    sure of the answer that follows, that is the answer; else it goes on thinking. The method is
    that of DEER (Yang et al. 2025, arXiv:2504.15895), with its measure: the geometric mean of the
    most probable token's probability.

    Attributes:
        markers: with which the model turns to something else; an empty one tries every line.
        confidence: above which the answer is settled.
        window: tokens of the answer that are looked at.
        pays: whether it is on unless the operator says otherwise: it has been measured.
    """

    markers: tuple[str, ...] = ("Wait", "But wait", "Alternatively", "Hmm", "Let me double")
    confidence: float = Field(default=0.95, gt=0, le=1)
    window: int = Field(default=24, ge=1, le=1024)
    pays: bool = False


class Calibration(_Record):
    """A model's own table of efforts, as `bench tasks --calibrate` writes it.

    Attributes:
        model: whose.
        effort: level -> thinking tokens, from none to xhigh; `max` is what fits.
        early_exit: whether thoughts that `auto` has chosen may end early; None leaves it as it is.
    """

    model: str = Field(min_length=1)
    effort: dict[Level, Count]
    early_exit: bool | None = None

    @model_validator(mode="after")
    def _check_effort(self) -> Calibration:
        levels = get_args(Level)[:-1]
        budgets = list(self.effort.values())
        if tuple(self.effort) != levels or budgets[0] != 0 or budgets != sorted(budgets):
            raise ValueError(f"`effort` lists {', '.join(levels)}, from 0 on, and never falls")
        return self


_CALIBRATION = TypeAdapter(Calibration)
_RULES = TypeAdapter(tuple[EffortRule, ...])


def read_rules(path: Path) -> tuple[EffortRule, ...]:
    """The rules of a YAML file, a list.

    Raises:
        ConfigError: it cannot be read, or is no list of rules.
    """
    return documents.read(_RULES, path, f"--effort-rules {path}")


def read_calibration(path: Path) -> Calibration:
    """A model's table of efforts from a YAML file.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    return documents.read(_CALIBRATION, path, f"--calibration {path}")
