"""The only package that opens netlink, /proc, /sys or another network namespace."""
