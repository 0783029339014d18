//! The coordinator: the loop around the pure core, and its gRPC services.
