//! The thread that writes: it chains the lines, follows the file's name, and takes back what went in only partly.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::resume::{Edge, Place};
use super::{AuditChain, Shared, open};
use crate::audit::AuditError;
use crate::audit::chain::{Chained, Happened, Head, Note, mac_text};
use crate::time;

/// Least time between two attempts to write what could not be written.
const LEAST_RETRY: Duration = Duration::from_millis(20);
/// How often trouble is told of in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    shared: Arc<Shared>,
    file: Arc<File>,
    chain: AuditChain,
    id: String,
    head: Head,
    /// Bytes in the file, as far as we know.
    length: u64,
    edge: Edge,
    /// What the next line has to be preceded by.
    note: Option<Happened>,
    /// Lines that nobody waits for and that could not be written yet.
    owed: Vec<u8>,
    /// Lines that there was no room to keep.
    lost: u64,
    out: Vec<u8>,
    checked: Instant,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        file: Arc<File>,
        chain: AuditChain,
        place: Place,
    ) -> Self {
        Writer {
            shared,
            file,
            chain,
            id: place.chain,
            head: place.head,
            length: place.length,
            edge: place.edge,
            note: Some(place.event),
            owed: Vec::new(),
            lost: 0,
            out: Vec::new(),
            checked: Instant::now(),
            complained: None,
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn run(&mut self) {
        let mut lines = Vec::new();
        let mut waiters = Vec::new();
        loop {
            let retry = self.shared.options.check_every.max(LEAST_RETRY);
            let retry = (!self.owed.is_empty()).then_some(retry);
            let (reopen, reopeners, closed) = {
                let mut state = self.shared.gather(retry);
                std::mem::swap(&mut state.lines, &mut lines);
                std::mem::swap(&mut state.waiters, &mut waiters);
                state.count = 0;
                (
                    std::mem::take(&mut state.reopen),
                    std::mem::take(&mut state.reopeners),
                    state.closed,
                )
            };
            if reopen || self.checked.elapsed() >= self.shared.options.check_every {
                self.follow_name(reopen);
            }
            for waiter in reopeners {
                // Nobody has to wait for it.
                let _ = waiter.send(());
            }
            let result = self.write(&lines);
            if let Err(error) = &result {
                self.complain(error);
                self.owe(&lines, &waiters);
            }
            for (_, waiter) in waiters.drain(..) {
                // A waiter that lost patience is gone.
                let _ = waiter.send(result.clone());
            }
            for buffer in [&mut lines, &mut self.out] {
                buffer.clear();
                buffer.shrink_to(1 << 20);
            }
            if closed && self.shared.state().lines.is_empty() {
                if !self.owed.is_empty() {
                    let lines = memchr::memchr_iter(b'\n', &self.owed).count() as u64 + self.lost;
                    tracing::error!(
                        lines,
                        "the server stops with audit lines that could never be written"
                    );
                }
                return;
            }
        }
    }

    /// Opens the name anew when it stands for another file, or when told to. On failure the old file goes on being used.
    pub(super) fn follow_name(&mut self, always: bool) {
        self.checked = Instant::now();
        let path = &self.shared.options.path;
        let held = self
            .file
            .metadata()
            .ok()
            .map(|held| (held.dev(), held.ino()));
        let named = std::fs::symlink_metadata(path)
            .ok()
            .map(|named| (named.dev(), named.ino()));
        if held.is_some() && named == held && !always {
            return;
        }
        let opened = open(path).and_then(|file| {
            let metadata = file.metadata().map_err(|error| AuditError::Write {
                what: error.to_string(),
            })?;
            Ok((file, metadata))
        });
        match opened {
            // The same file, whose end we know.
            Ok((_, metadata)) if Some((metadata.dev(), metadata.ino())) == held => {}
            Ok((file, metadata)) => {
                let old = std::mem::replace(&mut self.file, Arc::new(file));
                self.length = metadata.len();
                self.edge = Edge::default();
                self.note = Some(Happened::Rotated);
                self.shared.end().earlier.push(old);
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Notices what others did to the file.
    fn measure(&mut self) {
        let Ok(metadata) = self.file.metadata() else {
            return;
        };
        let found = metadata.len();
        if found < self.length {
            tracing::error!(
                path = %self.shared.options.path.display(), bytes = found, written = self.length,
                "the audit log was cut while it was written to; lines are missing if it was copied before (copytruncate): rotate it by renaming"
            );
            self.note = Some(Happened::Cut);
            self.edge = Edge::default();
        } else if found > self.length {
            tracing::error!(
                path = %self.shared.options.path.display(), bytes = found - self.length,
                "something else writes to the audit log; gridkeep audit verify shows its lines"
            );
        }
        self.length = found;
    }

    /// Writes what is owed and `lines`, all or nothing.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), AuditError> {
        if lines.is_empty() && self.owed.is_empty() {
            return Ok(());
        }
        self.measure();
        let before = self.head;
        self.out.clear();
        if self.note.is_some() || self.lost > 0 || self.edge != Edge::default() {
            self.begin();
        }
        for line in [&*self.owed, lines]
            .into_iter()
            .flat_map(|lines| lines.split_inclusive(|byte| *byte == b'\n'))
        {
            self.chain
                .chainer
                .append(&mut self.out, &self.id, &mut self.head, line);
        }
        let mut written = 0;
        while written < self.out.len() {
            match (&*self.file).write(&self.out[written..]) {
                Ok(0) => {
                    return Err(self.undo(before, written, "the file takes no more".to_owned()));
                }
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.undo(before, written, error.to_string())),
            }
        }
        self.length += self.out.len() as u64;
        (self.note, self.edge, self.lost) = (None, Edge::default(), 0);
        self.owed.clear();
        self.publish();
        Ok(())
    }

    /// The note that comes before anything else.
    fn begin(&mut self) {
        if self.edge.open {
            self.out.push(b'\n');
        }
        let note = Note {
            event: self.note.unwrap_or(Happened::Resumed),
            after: self.head.seq,
            after_mac: mac_text(&self.head.mac),
            offset: self.length + u64::from(self.edge.open),
            torn: self.edge.torn,
            lost: self.lost,
        };
        let line = note.line(&time::since_epoch(self.chain.clock.wall()));
        self.chain
            .chainer
            .append(&mut self.out, &self.id, &mut self.head, &line);
    }

    fn publish(&self) {
        let mut end = self.shared.end();
        end.head = self.head;
        end.length = self.length;
        if !Arc::ptr_eq(&end.file, &self.file) {
            end.file = self.file.clone();
        }
    }

    /// Takes back a batch that went in only partly, so that no line is torn and none stands for a request that was refused. Where
    /// even that fails, the lines that are in count, and the rest is told of by the next note.
    pub(super) fn undo(&mut self, before: Head, written: usize, what: String) -> AuditError {
        self.head = before;
        let in_file = if written == 0 || self.file.set_len(self.length).is_ok() {
            0
        } else {
            written
        };
        let whole = memchr::memrchr(b'\n', &self.out[..in_file]).map_or(0, |at| at + 1);
        let last = self.out[..whole]
            .split(|byte| *byte == b'\n')
            .filter_map(Chained::parse)
            .next_back();
        if let Some(last) = last {
            self.head = last.head;
            (self.note, self.lost) = (None, 0);
            self.edge = Edge::torn((in_file - whole) as u64);
        } else if in_file > 0 {
            self.edge = Edge::torn(self.edge.torn + in_file as u64);
        }
        self.length += in_file as u64;
        AuditError::Write { what }
    }

    /// Keeps the lines that nobody waits for until they can be written; who waits for one hears that it is not.
    fn owe(&mut self, lines: &[u8], waiters: &[(usize, super::Waiter)]) {
        let mut waiting = waiters.iter().map(|(index, _)| *index).peekable();
        let all = lines.split_inclusive(|byte| *byte == b'\n');
        for (index, line) in all.enumerate() {
            if waiting.next_if_eq(&index).is_some() {
                continue;
            }
            if self.owed.len() + line.len() > self.shared.options.pending_bytes {
                self.lost += 1;
            } else {
                self.owed.extend_from_slice(line);
            }
        }
    }

    fn complain(&mut self, error: &AuditError) {
        if self
            .complained
            .is_none_or(|last| last.elapsed() > COMPLAIN_EVERY)
        {
            self.complained = Some(Instant::now());
            tracing::error!(path = %self.shared.options.path.display(), %error, "audit log");
        }
    }
}
