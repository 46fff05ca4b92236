"""A simulated XenServer pool of 1,024 VMs: what a reading of all costs, and how exact it is."""
