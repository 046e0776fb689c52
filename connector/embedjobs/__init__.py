"""The Embed Jobs service, self-hosted: datasets, validation, asynchronous jobs, results; for Cohere's SDK and ours.

Read `server.py` first, then `store.py`: what is there, and what survives a kill.
"""
