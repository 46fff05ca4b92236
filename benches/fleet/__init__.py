"""One exporter over 200 simulated hypervisors, and a real Prometheus that scrapes all of them."""
