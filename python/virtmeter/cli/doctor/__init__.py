"""``virtmeter doctor``: what is wrong with a host. Each part looks at one thing."""
