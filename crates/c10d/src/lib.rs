//! libtorch's own c10d from Rust: stores, process groups, reducer.
