"""The text of `models list` and `models show`: plain strings, nothing is read or printed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_worker.catalog.explain import gigabytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from local_worker.catalog.llama_parts import LlamaPlan, Refusal
    from local_worker.catalog.schema import Artifact, Catalog, ModelEntry, Sampling, ThinkingSpec
    from local_worker.catalog.store import Present

_HEADINGS = ("MODEL", "PARAMETERS", "WEIGHTS", "SIZE", "CONTEXT", "THINKING", "HERE")
_BILLION = 1e9
_MILLION = 1e6


def render_list(catalog: Catalog, present: Mapping[str, Sequence[Present]]) -> str:
    """The table of all models.

    Args:
        catalog: what there is.
        present: model id -> its artifacts on this machine.

    Returns:
        Lines of text, ending with a newline.
    """
    rows = [_HEADINGS, *(_row(model, present.get(model.id, ())) for model in catalog.models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _row(model: ModelEntry, here: Sequence[Present]) -> tuple[str, ...]:
    best = model.weights[0]
    return (
        model.id,
        _params(model),
        best.quant,
        _size(model, best),
        f"{model.shape.context:,}",
        _thinking_word(model.thinking),
        ", ".join(present.artifact.quant for present in here) or "-",
    )


def _params(model: ModelEntry) -> str:
    total, active = _amount(model.params.total), _amount(model.params.active)
    return total if model.shape.moe is None else f"{total} ({active} active)"


def _amount(count: int) -> str:
    if count >= _BILLION:
        return f"{count / _BILLION:.1f}B"
    return f"{count / _MILLION:.1f}M"


def _size(model: ModelEntry, artifact: Artifact) -> str:
    if artifact.total_bytes is not None:
        return gigabytes(artifact.total_bytes)
    if artifact.bits_per_weight is None:
        return "unknown"
    return f"~{gigabytes(int(model.params.total * artifact.bits_per_weight / 8))}"


def _thinking_word(thinking: ThinkingSpec | None) -> str:
    if thinking is None or thinking.switch == "never":
        return "no"
    if thinking.switch == "always":
        return "always"
    return "on" if thinking.default_on else "off"


def render_model(model: ModelEntry, here: Sequence[Present] = ()) -> str:
    """Everything about one model, with what is not confirmed.

    Args:
        model: the entry.
        here: its artifacts on this machine.

    Returns:
        Lines of text, ending with a newline.
    """
    return "\n".join(_lines(model, here)) + "\n"


def _lines(model: ModelEntry, here: Sequence[Present]) -> Iterator[str]:
    yield model.id
    facts = {
        "also called": ", ".join(model.aliases),
        "family": model.family,
        "repository": model.hf or "packaged with the program",
        "licence": model.license,
        "released": model.released or "",
        "parameters": _params(model),
        "takes": ", ".join(model.modalities),
        "context": f"{model.shape.context:,} tokens",
        "tool calls": model.tool_format or "",
    }
    for name, value in facts.items():
        if value:
            yield f"  {name:<14}{value}"
    if model.thinking is not None:
        yield from _thinking_lines(model.thinking)
    for mode, sampling in (
        ("thinking", model.sampling.thinking),
        ("not thinking", model.sampling.non_thinking),
    ):
        if sampling is not None:
            yield f"  {'sampling':<14}{mode}: {_sampling(sampling)}"
    yield "  files"
    paths = {present.artifact: present for present in here}
    for artifact in model.artifacts:
        yield from _artifact_lines(model, artifact, paths.get(artifact))
    yield from _notes("notes", model.notes)
    yield from _notes("not confirmed", model.unconfirmed)


def _thinking_lines(thinking: ThinkingSpec) -> Iterator[str]:
    budgets = ", ".join(f"{level} {tokens}" for level, tokens in thinking.effort.items())
    default = "on" if thinking.default_on else "off"
    switch = {"always": "always on", "never": "never"}.get(
        thinking.switch, f"{default} by default, switched by {thinking.switch}"
    )
    yield f"  {'thinking':<14}{switch}; between {thinking.start!r} and {thinking.end!r}"
    yield f"  {'effort':<14}{budgets}, max what fits; {thinking.default_effort} when none is named"
    if thinking.native_levels:
        native = ", ".join(f"{ours} -> {own}" for ours, own in thinking.native_levels.items())
        yield f"  {'own levels':<14}{native}"


def _sampling(sampling: Sampling) -> str:
    values = sampling.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _artifact_lines(
    model: ModelEntry, artifact: Artifact, present: Present | None
) -> Iterator[str]:
    size = _size(model, artifact) if artifact.role == "weights" else _size_of_side_file(artifact)
    role = "" if artifact.role == "weights" else f" ({artifact.role})"
    where = artifact.repo or "packaged"
    yield f"    {artifact.quant}{role}  {size}  {where}{'  [here]' if present else ''}"
    for file in artifact.files:
        yield f"      {file.name}"
    for note in artifact.unconfirmed:
        yield f"      not confirmed: {note}"


def _size_of_side_file(artifact: Artifact) -> str:
    return gigabytes(artifact.total_bytes) if artifact.total_bytes else "unknown"


def _notes(title: str, notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"  {title}"
    for note in notes:
        yield f"    {note}"


def render_plan(plan: LlamaPlan | Refusal) -> str:
    """A plan or a refusal as text, a reason a line, ending with a newline."""
    reasons = "".join(f"  {reason}\n" for reason in plan.reasons)
    nearest = getattr(plan, "nearest", None)
    return f"{plan.model}\n{reasons}" + (f"  {nearest}\n" if nearest else "")
