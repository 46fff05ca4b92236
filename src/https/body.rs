//! The bytes of an answer, as they come.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// More bytes are in pages of their own.
const MANY: usize = 64 << 10;

/// A body. One that is long is in pages of its own, which the system has back at once: the C library would keep for
/// each thread what the longest answer took, and what it left behind as it grew.
pub(crate) struct Body {
    buffer: Buffer,
    len: usize,
}

enum Buffer {
    Few(Vec<u8>),
    Many(MmapMut),
}

impl Buffer {
    /// For so many bytes, all zero.
    fn new(bytes: usize) -> io::Result<Self> {
        if bytes <= MANY {
            return Ok(Self::Few(vec![0; bytes]));
        }
        MmapMut::map_anon(bytes).map(Self::Many)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Many(pages) => pages,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Many(pages) => pages,
        }
    }
}

impl Body {
    /// With room for so many bytes.
    pub(super) fn with_room(bytes: usize) -> io::Result<Self> {
        Ok(Self { buffer: Buffer::new(bytes)?, len: 0 })
    }

    /// Adds bytes at its end.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len();
        if end > self.buffer.len() {
            // Pages that are not written to cost nothing.
            let mut buffer = Buffer::new(2 * end)?;
            buffer[..self.len].copy_from_slice(self);
            self.buffer = buffer;
        }
        self.buffer[self.len..end].copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Keeps the first so many bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_comes_in_pieces_is_there_as_a_whole(
            room in 0..3 * MANY,
            pieces in prop::collection::vec((any::<u8>(), 0..MANY), 0..8),
            cut in 0..8 * MANY,
        ) {
            let pieces: Vec<_> = pieces.into_iter().map(|(byte, len)| vec![byte; len]).collect();
            let mut body = Body::with_room(room).unwrap();
            for piece in &pieces {
                body.extend(piece).unwrap();
            }
            let mut whole = pieces.concat();
            prop_assert!(*body == *whole);
            body.truncate(cut);
            whole.truncate(cut);
            body.extend(b"more").unwrap();
            whole.extend(b"more");
            prop_assert!(*body == *whole);
        }
    }
}
