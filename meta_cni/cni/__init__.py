"""The CNI specification 1.1.0 as data: no I/O, no clock, no environment."""
