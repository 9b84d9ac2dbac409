"""Files of networks: plain, packed, progressive. Nothing in them is ever executed."""
