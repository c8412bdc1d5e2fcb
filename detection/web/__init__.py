"""The web page of `detection.serve`: what it answers, whom it answers, and how much of it anyone may use up.

application.py  the page, what it asks for, and the judging of what is sent
guard.py        the names that the server answers to, the token, and the headers of every answer
connections.py  time limits of a connection, the number of them, and a log that nobody can fill
results.py      recordings that are being received, and the last results in a temporary folder
history.py      the last verdicts of each machine, from the page and from a watcher's record
static/         what the browser gets
"""
