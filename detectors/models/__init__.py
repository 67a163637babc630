"""Detectors' models: features in, raw surprise out. Calibration makes it an honest p-value."""
