"""`local-worker serve`: from a model's name to a running server.

resolve   name or path -> what to load and how, with reasons
server    listens, loads, tests, serves, stops
"""
