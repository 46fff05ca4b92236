"""``virtmeter stats``: one reading of every VM.

``readings`` takes it, ``table`` shows it to people and ``formats`` to programs.
"""
