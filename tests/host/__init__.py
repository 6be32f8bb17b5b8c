"""Tests of the host: hook points, loading, text."""
