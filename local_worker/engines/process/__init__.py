"""An engine in a child process of its own: what all such engines share.

engine    the port's implementation: owns the process, restarts it, runs requests again
child     the process as the server holds it
messages  what crosses the border
channel   the process's own end of the border
commands  the process's reader of commands, which answers tokenizer calls by itself
trial     bounds what compiling a grammar may take
vocabulary  what the engines' vocabularies have in common
sequence  one request's output and times (pure)
"""
