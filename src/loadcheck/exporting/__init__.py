"""Exports: what was trained as a folder for others, with the proof that it is that.

source    the run that is exported, its adapters looked at before anything is made
child     the processes that hold a model (engines/exported.py)
proof     proof.json, what it must show, and whether a folder still is what it says
export    from a run to a folder that is whole or not there
"""
