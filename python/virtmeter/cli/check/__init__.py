"""``virtmeter check``: beside Ceilometer's own inspector, on a live host.

``stock`` is a process of its own that runs Ceilometer's inspector, ``child`` asks it, ``answers``
has what both of them say, ``differences`` compares that, and ``documented`` knows what is meant to
differ.
"""
