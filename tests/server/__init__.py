"""Tests of the gRPC edge."""
