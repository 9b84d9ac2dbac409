"""How good a network is and what it costs: metrics, costs, sweeps, the frontier."""
