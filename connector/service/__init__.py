"""`vector-sync serve`: syncs that run by themselves, and what tells how they do. Read `server.py` first."""
