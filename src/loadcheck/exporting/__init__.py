"""Exports a trained model as a folder for others, with a proof that it is what was trained.

source     the run to export, with its adapters, which are checked first
child      runs the processes that load a model (engines/exported.py)
proof      proof.json: its content, its checks, and whether a folder still matches it
export     makes the folder from a run, atomically
answering  generates an answer with an export or a run
"""
