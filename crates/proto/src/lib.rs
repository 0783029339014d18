//! muster.v1: messages, clients and servers, generated from `proto/`.

/// Everything of package `muster.v1`. The documentation of each message stands in the `.proto` files.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("muster.v1");

    /// The encoded file descriptors, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/muster.v1.bin"));
}
