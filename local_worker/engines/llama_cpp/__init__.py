"""llama.cpp as an engine, in a child process of its own.

engine     the supervised process (see `engines.process`) that runs `worker`
config     what it loads
worker     the child: one thread owns model, context and scheduler; another reads commands
scheduler  which sequences get how many tokens in the next step (pure)
sequence   one request's tokens and counts (pure)
sampling   logits row -> token
binding    the only place that calls the native library
native     that library, with what is put into it
kernels  what is put into it on x86 processors

loop:  drain commands -> plan = scheduler.plan() -> run(plan) -> apply(plan) -> one message
"""
