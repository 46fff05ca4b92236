"""``virtmeter export``: what all VMs use, for Prometheus.

A request's way through them: ``server`` has the sockets and threads, and hangs up on who is too
slow (``places`` decides who that is); ``messages`` takes the request apart; ``guard`` lets users
in, whom ``access`` has read from files; ``pages`` finds the answer. For the metrics, ``reading``
reads the VMs in a thread, ``created`` sees when their counters began, ``metrics`` says
what becomes of what was read, and ``rendering`` makes the text of it, once for all who ask, as
``formats`` says.

With many targets, ``fleet_pages`` finds the answer, ``fleet`` has what reads each, and
``fleet_metrics`` what there is to say of all of them; ``workers`` has the threads that read.
``serving`` puts all of this together, and ``reload`` reads the files anew.
"""
