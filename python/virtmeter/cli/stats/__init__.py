"""``virtmeter stats``: one reading of every VM.

``readings`` takes it, ``table`` shows it to people and ``formats`` to programs. With ``--interval``
it is two readings, ``usage``, of what ``virtmeter watch`` reads again and again.
"""
