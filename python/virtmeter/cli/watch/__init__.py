"""``virtmeter watch``: what every VM uses, as it uses it.

``readings`` takes a reading every so often, in a thread of its own, and ``model`` has what was read
last. ``screen`` waits for keys, readings and signals (``keys``, ``signals``), does what a key asks
for (``actions``) and draws (``view``, ``columns``); without a terminal, ``lines`` prints instead.
"""
