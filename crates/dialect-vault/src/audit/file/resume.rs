//! Where the chain goes on when a file is opened: behind the last line that belongs to it.
//!
//! Lines behind the anchor were written before a kill and are taken as they are if they follow it. The anchor's file may have been
//! renamed while nobody wrote.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::AuditChain;
use crate::audit::chain::{Chained, Chainer, Happened, Head, mac_of_text, new_id};

/// Longest line that is looked at; the service writes none that is nearly as long.
const LONGEST: u64 = 8 << 20;

/// Where writing begins.
pub(super) struct Place {
    pub chain: String,
    pub head: Head,
    /// Bytes in the file.
    pub length: u64,
    pub event: Happened,
    pub edge: Edge,
}

/// How the bytes in a file end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Edge {
    /// Whether a newline is missing.
    pub open: bool,
    /// Bytes of a line that is not whole.
    pub torn: u64,
}

impl Edge {
    pub(super) fn torn(bytes: u64) -> Self {
        Edge {
            open: bytes > 0,
            torn: bytes,
        }
    }
}

pub(super) fn resume(file: &File, path: &Path, chain: &AuditChain) -> std::io::Result<Place> {
    let metadata = file.metadata()?;
    let mut place = Place {
        chain: String::new(),
        head: Head::default(),
        length: metadata.len(),
        event: Happened::Opened,
        edge: Edge::torn(unfinished(file, metadata.len())?),
    };
    let Some((anchor, mac)) = chain
        .anchor
        .as_ref()
        .and_then(|anchor| Some((anchor, mac_of_text(&anchor.mac)?)))
    else {
        place.chain = new_id();
        return Ok(place);
    };
    place.chain.clone_from(&anchor.chain);
    place.head = Head {
        seq: anchor.seq,
        mac,
    };
    let identity = (anchor.device, anchor.inode);
    let here = (metadata.dev(), metadata.ino()) == identity;
    let tail = if here && metadata.len() >= anchor.length {
        let tail = Tail::read(
            file,
            anchor.length,
            &chain.chainer,
            &anchor.chain,
            place.head,
        )?;
        if tail.foreign {
            tracing::error!(
                path = %path.display(), line = tail.head.seq + 1,
                "the audit log was changed while no server wrote to it; gridkeep audit verify says more"
            );
        }
        Some(tail)
    } else if let Some(begin) = begins_behind(file, &chain.chainer, &anchor.chain, anchor.seq)? {
        // Begun after the anchor, with a note of where.
        let tail = Tail::read(file, 0, &chain.chainer, &anchor.chain, begin)?;
        Some(tail)
    } else if here {
        tracing::error!(
            path = %path.display(), bytes = metadata.len(), known = anchor.length,
            "the audit log is shorter than when it was last written; gridkeep audit verify says which lines are missing"
        );
        place.event = Happened::Cut;
        None
    } else {
        if let Some(renamed) = find(path, identity)
            && renamed.metadata()?.len() >= anchor.length
        {
            let from = anchor.length;
            let tail = Tail::read(&renamed, from, &chain.chainer, &anchor.chain, place.head)?;
            place.head = tail.head;
        }
        None
    };
    if let Some(tail) = tail {
        place.head = tail.head;
        if tail.last_is_whole {
            place.edge.torn = 0;
        }
    }
    Ok(place)
}

/// Where the file's first line says that it goes on, if that line is the server's and that is not before line `seq`.
fn begins_behind(
    file: &File,
    chainer: &Chainer,
    id: &str,
    seq: u64,
) -> std::io::Result<Option<Head>> {
    let mut line = Vec::new();
    BufReader::new(At { file, offset: 0 })
        .take(LONGEST)
        .read_until(b'\n', &mut line)?;
    let first = Chained::parse(line.strip_suffix(b"\n").unwrap_or(&line));
    Ok(first.filter(|first| first.id == id).and_then(|first| {
        let head = first.note()?.head()?;
        (head.seq >= seq && chainer.follows(&head, &first)).then_some(head)
    }))
}

/// The lines behind an anchor.
struct Tail {
    head: Head,
    /// Whether something is there that is not the next line.
    foreign: bool,
    /// Whether the last line lacks nothing but its newline.
    last_is_whole: bool,
}

impl Tail {
    fn read(
        file: &File,
        from: u64,
        chainer: &Chainer,
        id: &str,
        head: Head,
    ) -> std::io::Result<Tail> {
        let mut tail = Tail {
            head,
            foreign: false,
            last_is_whole: false,
        };
        let mut reader = BufReader::new(At { file, offset: from });
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                return Ok(tail);
            }
            let finished = line.last() == Some(&b'\n');
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            match Chained::parse(text)
                .filter(|next| next.id == id && chainer.follows(&tail.head, next))
            {
                Some(next) => {
                    tail.head = next.head;
                    tail.last_is_whole = !finished;
                }
                None => {
                    tail.foreign = finished;
                    return Ok(tail);
                }
            }
        }
    }
}

/// Reads at a place of its own, so that a file that others write to is left alone.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl std::io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Bytes behind the last newline.
fn unfinished(file: &File, length: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let mut end = length;
    let mut buffer = vec![0; BLOCK as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let block = &mut buffer[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        if let Some(at) = memchr::memrchr(b'\n', block) {
            return Ok(length - start - at as u64 - 1);
        }
        end = start;
    }
    Ok(length)
}

/// The file beside `path` with this device and inode number.
fn find(path: &Path, identity: (u64, u64)) -> Option<File> {
    std::fs::read_dir(path.parent()?)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| {
            entry.metadata().is_ok_and(|metadata| {
                metadata.is_file() && (metadata.dev(), metadata.ino()) == identity
            })
        })
        .and_then(|entry| File::open(entry.path()).ok())
}
