"""A server for what was loaded or trained: the engine's own, behind our door, predicted before and judged after its start.

asked     what is to be served: a profile, a run, an export, and further adapters
key       the API key: given, or made and shown once
server    the process from its start to its end
"""
