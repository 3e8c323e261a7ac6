//! Real Envoys, hosts and Cloud Map for tests, benchmarks and the demo.
