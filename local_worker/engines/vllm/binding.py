"""The only place that imports vllm: load, generate, look at its health."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from local_worker.engines.vllm.chunks import Chunk, DeadError, Logprobs, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllm.outputs import CompletionOutput
    from vllm.v1.metrics.stats import SchedulerStats

    from local_worker.engines.vllm.config import VllmConfig

VERSION: str = vllm.__version__

CLOSE_SECONDS = 0.5
"""What an engine core gets to end by itself; it holds nothing worth saving."""


class _Gauges(StatLoggerBase):  # type: ignore[misc]
    """Keeps what the scheduler reported last."""

    def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
        del vllm_config, engine_index
        self.kv_usage = 0.0
        self.steps = 0

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: object,
        mm_cache_stats: object = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM after each step."""
        del iteration_stats, mm_cache_stats, engine_idx
        if scheduler_stats is not None:
            self.kv_usage = scheduler_stats.kv_cache_usage
            self.steps += 1

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class Vllm:
    """A loaded model. To be made, and used, inside one running event loop."""

    def __init__(self, config: VllmConfig) -> None:
        args = AsyncEngineArgs(
            model=config.model_path,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            data_parallel_size=config.data_parallel_size,
            # The API has resolved every default before a request gets here.
            generation_config="vllm",
            # One reading of a grammar on both engines.
            structured_outputs_config={"backend": "guidance"},
            **config.engine_args,
        )
        self._adapters = {
            adapter.name: LoRARequest(adapter.name, number, adapter.path)
            for number, adapter in enumerate(config.adapters, 1)
        }
        self._gauges: list[_Gauges] = []
        self._engine = AsyncLLM.from_engine_args(args, stat_loggers=[self._make_gauges])
        self.vocab_size: int = self._engine.model_config.get_vocab_size()
        self.kv_capacity = self._capacity(config.data_parallel_size)

    def _capacity(self, copies: int) -> int:
        """Tokens that fit the cache, of all copies together."""
        cache = self._engine.vllm_config.cache_config
        if cache.kv_cache_size_tokens:
            return int(cache.kv_cache_size_tokens) * copies
        return int(cache.num_gpu_blocks * cache.block_size)  # summed over the copies by vLLM

    def _make_gauges(self, vllm_config: object, engine_index: int = 0) -> _Gauges:
        gauges = _Gauges(vllm_config, engine_index)
        self._gauges.append(gauges)
        return gauges

    @property
    def kv_used(self) -> int:
        """Tokens' worth of cache that running requests hold."""
        usage = sum(g.kv_usage for g in self._gauges) / max(1, len(self._gauges))
        return round(usage * self.kv_capacity)

    @property
    def steps(self) -> int:
        """Steps of the scheduler so far, over all ranks."""
        return sum(g.steps for g in self._gauges)

    @property
    def dead(self) -> bool:
        """Whether the engine core has ended."""
        return bool(self._engine.errored)

    def close(self) -> None:
        """Ends the engine core, and gives its shared memory back."""
        logging.getLogger("vllm").setLevel(logging.ERROR)  # that it is ended is no warning
        self._engine.shutdown(timeout=CLOSE_SECONDS)

    async def generate(
        self,
        request_id: str,
        token_ids: list[int],
        params: dict[str, Any],
        adapter: str | None = None,
        cache_salt: str = "",
    ) -> AsyncGenerator[Chunk]:
        """One request; closing the iterator aborts it.

        Args:
            request_id: unique in the process.
            token_ids: the prompt.
            params: for `SamplingParams`; `structured_outputs` for `StructuredOutputsParams`.
            adapter: one of the config's.
            cache_salt: cached blocks are shared only with requests that have the same one.

        Raises:
            RefusedError: the parameters.
            DeadError: the engine core ended.
        """
        try:
            form = params["structured_outputs"]
            sampling = SamplingParams(
                **{**params, "structured_outputs": form and StructuredOutputsParams(**form)},
                output_kind=RequestOutputKind.DELTA,
            )
            stream = self._engine.generate(
                tokens_input(token_ids, cache_salt=cache_salt or None),
                sampling,
                request_id,
                lora_request=None if adapter is None else self._adapters[adapter],
                # A grammar is only ever given with the phase that is the answer.
                reasoning_ended=True if form else None,
            )
            try:
                async for output in stream:
                    (completion,) = output.outputs
                    yield Chunk(
                        list(completion.token_ids),
                        _logprobs(completion, params["logprobs"]),
                        completion.finish_reason,
                        output.num_cached_tokens or 0,
                    )
            finally:
                await stream.aclose()
        except VLLMValidationError as error:
            raise RefusedError(str(error)) from error
        except EngineDeadError as error:
            raise DeadError(str(error)) from error


def _logprobs(completion: CompletionOutput, count: int | None) -> list[Logprobs]:
    if count is None:
        return []
    found = []
    for token_id, entries in zip(completion.token_ids, completion.logprobs, strict=True):
        ranked = sorted((e.rank, i, e.logprob) for i, e in entries.items() if e.rank <= count)
        top = tuple((i, logprob) for _, i, logprob in ranked)
        found.append(Logprobs(entries[token_id].logprob, top))
    return found
