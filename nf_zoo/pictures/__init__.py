"""Everything before the network: reading, resizing, cropping and varying pictures."""
