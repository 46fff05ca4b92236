"""The command ``virtmeter``, over the library that everybody uses: a folder for each command.

Its ``command`` has the options and the way through the rest of the folder. What several commands
need stands beside the folders: ``main`` finds the command, ``connection`` and ``selection`` have
the options that they share. Needs ``pip install 'virtmeter[cli]'``.
"""
