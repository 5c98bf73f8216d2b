"""Tool calls, in every layout that a family writes them in. Pure.

events     what a parser finds in the text of calls
reading    what the parsers have in common
schemas    what is asked of a tool's JSON schema
grammars   what a turn with tools may look like
notation   arguments that are no JSON, as rules of a grammar
scan       where a JSON value ends, while it is still being written
json_calls layouts with JSON arguments: hermes (Qwen3, the embedded model), mistral, harmony
qwen_xml   one XML-like element for each parameter (Qwen3.5 and later)
gemma      Gemma 4's own notation
pieces     arguments that come one by one
formats    a parser by the catalog's name for the layout
"""
