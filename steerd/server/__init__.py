"""The gRPC edge: the only reader and writer of protobuf.

- `parse`: wire to `GenerationRequest`, or an error that names every bad field; the only validation
- `reply`: engine events to wire, decoding text as it goes
- `status`: kinds of failure to gRPC status codes and error details
- `grpc_server`: bind, health, drain
"""
