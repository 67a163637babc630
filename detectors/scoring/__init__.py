"""From p-values to alerts: calibration, policy, explanation."""
