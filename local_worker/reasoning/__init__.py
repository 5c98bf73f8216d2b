"""Thinking effort: from a level to a budget, and the budget's enforcement token by token.

    effort   level and limits -> budget (pure policy)
    budget   the state machine that holds it
    text     token pieces -> reasoning and content text, stop strings, UTF-8
    turn     both of them together: what an engine feeds every sampled token to

Nothing here knows an engine, a clock or HTTP.
"""
