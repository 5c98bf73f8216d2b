"""`local-worker bench`: load over HTTP, beside a peer in the same run.

scenario -> load -> stats -> report, and `peers` for the servers that are measured.
"""
