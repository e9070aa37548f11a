"""Measuring: pure metrics, a runner that goes through real files, and reports with intervals."""
