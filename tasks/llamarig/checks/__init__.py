"""Checks of what no deploy may change (RAM profile, PCIe link, stray servers), and lints of declarations."""
