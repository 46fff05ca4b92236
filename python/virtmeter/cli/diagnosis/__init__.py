"""The parts of ``virtmeter doctor``: each looks at one thing, and yields what it finds."""
