//! The memory map: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::{fs::File, io, ops::Deref, path::Path};

/// A file's bytes, mapped for reading.
pub(crate) struct Map(memmap2::Mmap);

impl Map {
    /// Maps the whole file. It must not be empty.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private to this process and read-only, so Rust code cannot write through it. Another process
        // could still change or truncate the file: datasets are written under a temporary name, renamed into place and
        // never written again, replacing one unlinks the old files (whose pages live on as long as they are mapped), and
        // every block is checked against its digest before its tokens are used. Tokens are plain bytes, for which any
        // value is valid.
        unsafe { memmap2::Mmap::map(&file) }.map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
