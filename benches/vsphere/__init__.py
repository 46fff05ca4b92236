"""A simulated vCenter of up to 10,000 VMs: what a reading of all costs, and how exact it is."""
