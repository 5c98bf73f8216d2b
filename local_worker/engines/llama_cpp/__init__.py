"""llama.cpp as an engine, in a child process of its own.

engine     the port's implementation: owns the child process, restarts it
child      the process as the server holds it
messages   what crosses the process border
worker     the child: one thread owns model, context and scheduler; another reads commands
scheduler  which sequences get how many tokens in the next step (pure)
sequence   one request's tokens and counts (pure)
sampling   logits row -> token
binding    the only place that calls the native library

loop:  drain commands -> plan = scheduler.plan() -> run(plan) -> apply(plan) -> one message
"""
