"""vLLM as an engine: `AsyncLLM` in a supervised process of its own.

engine      the supervised process (see `engines.process`) that runs `worker`
config      what it loads
worker      the process: one task for each running sequence
phases      what vLLM is asked for on behalf of a sequence (pure)
vocabulary  text <-> token ids <-> bytes, from the model folder's tokenizer.json
failures    what a failed start means and what to do about it (pure)
chunks      what comes back from vLLM
tail        what its processes print, for when a start fails
binding     the only place that imports vllm

A turn is one vLLM request for as long as nothing is forced. Where the budget closes the thought,
that request is aborted and the next one takes over: its prompt is the old one, the thought and the
closer, of which the prefix cache holds all but the last block.
"""
