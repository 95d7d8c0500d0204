"""Who hands out addresses: host-local, static, or any executed IPAM plugin."""
