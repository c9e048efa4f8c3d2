"""The agent: one on each node of a job. It starts the ranks, watches them, and decides with the ledger what an exit means.

It must not import torch, and a rank's trouble must never become its own.
"""
