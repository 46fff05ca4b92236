"""What an inspection costs: virtmeter beside Ceilometer's own inspector, and beside its peers.

``make bench`` runs all parts and writes docs/benchmarks.md; ``make bench ONLY=real`` prints one.
"""
