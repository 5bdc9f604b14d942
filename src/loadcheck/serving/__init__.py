"""Serves a model with vLLM's own server and an API key; its memory is predicted before its start, and judged after it.

request   what to serve: a profile, a run or an export, and further adapters
key       the API key: given, or generated and shown once
server    runs and watches the server's process
"""
