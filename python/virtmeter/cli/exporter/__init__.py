"""The parts of ``virtmeter export``.

``reading`` takes the readings in a thread of its own, ``metrics`` makes metrics of them, and
``server`` hands them out, with ``users`` at the door.
"""
