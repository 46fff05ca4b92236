"""The command ``virtmeter``: one module for each command, over the library that everybody uses.

``main`` finds the command, ``connection`` and ``selection`` have what several of them share.
Needs ``pip install 'virtmeter[cli]'``.
"""
