"""``virtmeter export``: what all VMs use, for Prometheus.

A request's way through them: ``server`` has the sockets and threads, and hangs up on who is too
slow (``places`` decides who that is); ``messages`` takes the request apart; ``guard`` lets users
in, whom ``access`` has read from files; ``pages`` finds the answer. For the metrics, ``reading``
reads the VMs in a thread of its own, ``created`` sees when their counters began, ``metrics`` says
what becomes of what was read, and ``rendering`` makes the text of it, once for all who ask, as
``formats`` says.
"""
