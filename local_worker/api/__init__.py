"""The HTTP face: OpenAI's wire format in front of an `engine.Engine`.

app         puts the parts together
guard       who may come in, and how much they may bring (ASGI middleware)
admission   how many requests are in flight, and whether new ones are taken
schemas     request bodies (pydantic)
model       the served model: template, delimiters, effort policy, self-test
translate   request -> what the engine needs (pure)
jobs        what chat and text completions share
routing     `auto`: rules, the conversation, or one step of the model
early_exit  ends a thought whose answer is settled
choices     runs a request's sequences and collects or streams them
render      engine output -> response objects (pure)
chat, completions, misc   the routes
events      server-sent events, and noticing that a client has gone
errors      exceptions -> HTTP codes, one table
metrics     Prometheus
"""
