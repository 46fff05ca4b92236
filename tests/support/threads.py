"""Threads that cannot begin, in a script's own process."""

WITHOUT_MEMORY = """
import _thread

lost = []  # an entry for each thread that is to have no memory to begin with

def without_memory(start):
    \"\"\"Of such a thread, Python tells nobody.\"\"\"
    return lambda function, *more, **named: start(*(
        (lambda *_: None, ()) if lost and lost.pop() else (function, *more)
    ), **named)

for name in ("start_new_thread", "start_joinable_thread"):
    if hasattr(_thread, name):
        setattr(_thread, name, without_memory(getattr(_thread, name)))
"""
