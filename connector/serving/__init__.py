"""What both services of vector-sync stand on: a port that is taken beforehand, and a log in JSON."""
