//! The journal in SQLite and object storage.
