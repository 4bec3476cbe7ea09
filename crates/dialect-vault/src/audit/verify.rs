//! Verifying audit logs: whether the lines are all there, unchanged and in order, up to where the store says the log ended.
//!
//! Owns the judgement. Refuses to know where files come from: it is given readers, in the order of [`beginning`]. What happens to a log
//! without anybody's doing (a kill in the middle of a line, lines behind the last anchor) is a remark, not a finding.

use std::collections::BTreeMap;
use std::io::BufRead;

use gridkeep_keeper::{AuditAnchor, AuditEvidence};

use super::chain::{Chained, Chainer, Happened, Head, Mac, Note, mac_of_text};

/// Longest line that is read; the service writes none that is nearly as long.
const LONGEST: usize = 16 << 20;
/// Findings kept; the others are counted.
const MOST_FINDINGS: usize = 200;

/// Something that does not happen to a log by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditFinding {
    /// Lines of these numbers are not there.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
        /// Where they ought to be.
        place: String,
        /// Whether they are the last ones there were.
        at_end: bool,
        /// Whether the file was cut while the server wrote to it.
        cut: bool,
    },
    /// A line is not what was written, or the one before it is not.
    Changed {
        /// Its number.
        seq: u64,
        /// Where it is.
        place: String,
    },
    /// A line stands behind later ones, or is there twice.
    OutOfOrder {
        /// Its number.
        seq: u64,
        /// Where it is.
        place: String,
    },
    /// Something the server did not write.
    Inserted {
        /// How many lines.
        lines: u64,
        /// Where the first is.
        place: String,
    },
    /// The first lines of a file are gone.
    Beheaded {
        /// Where the first line left is.
        place: String,
    },
    /// The line that the store knows as the last at some moment is another one.
    Replaced {
        /// Its number.
        seq: u64,
        /// Whose log it is.
        node: String,
    },
}

impl std::fmt::Display for AuditFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuditFinding::Missing {
                from,
                to,
                place,
                at_end,
                cut,
            } => {
                if from == to {
                    write!(f, "{place}: line {from} is missing")?;
                } else {
                    write!(f, "{place}: lines {from} to {to} are missing")?;
                }
                if *at_end {
                    f.write_str(
                        " at the end: the log was cut short, or its newest file was not given",
                    )
                } else if *cut {
                    f.write_str(": the file was cut while the server wrote to it (copytruncate loses lines; rotate by renaming)")
                } else {
                    f.write_str(": they were removed, or the file that holds them was not given")
                }
            }
            AuditFinding::Changed { seq, place } => write!(f, "{place}: line {seq} was changed"),
            AuditFinding::OutOfOrder { seq, place } => {
                write!(f, "{place}: line {seq} stands behind later ones, or twice")
            }
            AuditFinding::Inserted { lines, place } => {
                write!(f, "{place}: {lines} lines were not written by the server")
            }
            AuditFinding::Beheaded { place } => write!(
                f,
                "{place}: the beginning of the file is gone, or other lines were put there"
            ),
            AuditFinding::Replaced { seq, node } => write!(
                f,
                "line {seq} of node {node} is not the one the store has noted"
            ),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct AuditReport {
    /// What is wrong; the first of it.
    pub findings: Vec<AuditFinding>,
    /// How much more is wrong.
    pub more: u64,
    /// What is worth knowing and no fault.
    pub remarks: Vec<String>,
    /// Lines that were proven.
    pub proven: u64,
}

/// The number of the first chained line and its chain, by which files are put in order; `None` if there is none.
///
/// # Errors
/// What the reader says.
pub fn beginning(reader: &mut dyn BufRead) -> std::io::Result<Option<(String, u64)>> {
    let mut line = Vec::new();
    while next_line(reader, &mut line)? > 0 {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Some(chained) = Chained::parse(text) {
            return Ok(Some((chained.id.to_owned(), chained.head.seq)));
        }
    }
    Ok(None)
}

fn next_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    line.clear();
    loop {
        let available = reader.fill_buf()?;
        let (used, done) = match memchr::memchr(b'\n', available) {
            Some(at) => (at + 1, true),
            None => (available.len(), available.is_empty()),
        };
        line.extend_from_slice(&available[..used]);
        reader.consume(used);
        if done || line.len() > LONGEST {
            return Ok(line.len());
        }
    }
}

/// One chain as far as it was read.
#[derive(Default)]
struct Progress {
    /// The last line; `None` before any.
    last: Option<Head>,
    /// Where it is.
    place: String,
    /// The MAC of the line that the store has noted, once it was read.
    at_anchor: Option<Mac>,
    /// Notes of starts, which alone may stand where others stood before; each once.
    starts: Vec<Mac>,
}

/// Bytes read that belong to no chain.
#[derive(Default)]
struct Unchained {
    bytes: u64,
    lines: u64,
    place: String,
    at_start: bool,
}

/// Verifies the files of one or more nodes.
pub struct AuditVerifier {
    chainer: Chainer,
    anchors: Vec<AuditAnchor>,
    chains: BTreeMap<String, Progress>,
    report: AuditReport,
}

impl AuditVerifier {
    /// A verifier with nothing read. The evidence has to be from before the files are read, so that none ends before its anchor.
    #[must_use]
    pub fn new(evidence: &AuditEvidence) -> Self {
        AuditVerifier {
            chainer: Chainer::new(&evidence.key),
            anchors: evidence.anchors.clone(),
            chains: BTreeMap::new(),
            report: AuditReport::default(),
        }
    }

    /// Reads one file; `name` is what it is called in the report.
    ///
    /// # Errors
    /// What the reader says; what was read before counts.
    pub fn file(&mut self, name: &str, reader: &mut dyn BufRead) -> std::io::Result<()> {
        let mut line = Vec::new();
        let (mut number, mut offset) = (0, 0);
        let mut unchained = Unchained::default();
        let mut first = true;
        let mut last_chain = None;
        loop {
            let length = next_line(reader, &mut line)? as u64;
            if length == 0 {
                break;
            }
            number += 1;
            let finished = line.last() == Some(&b'\n');
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let place = || format!("{name}:{number}");
            match Chained::parse(text) {
                Some(chained) => {
                    let pending = std::mem::take(&mut unchained);
                    self.line(name, &chained, place(), offset, first, pending);
                    last_chain = Some(chained.id.to_owned());
                    first = false;
                }
                None if !finished && !first => {
                    // Nothing is behind it: a write under way, or the last one before a kill.
                    self.report.remarks.push(format!(
                        "{}: the last line is torn: the server is still writing it, or was killed or lost power while it did",
                        place()
                    ));
                }
                None => {
                    if unchained.lines == 0 {
                        unchained.place = place();
                        unchained.at_start = first;
                    }
                    unchained.bytes += length;
                    unchained.lines += 1;
                }
            }
            offset += length;
        }
        if unchained.lines > 0 {
            if first {
                self.report.remarks.push(format!(
                    "{name}: none of its {} lines is chained: they are from before, or from another program",
                    unchained.lines
                ));
            } else {
                self.find(AuditFinding::Inserted {
                    lines: unchained.lines,
                    place: unchained.place,
                });
            }
        } else if last_chain.is_none() {
            self.report.remarks.push(format!("{name}: empty"));
        }
        Ok(())
    }

    fn line(
        &mut self,
        name: &str,
        line: &Chained<'_>,
        place: String,
        offset: u64,
        first: bool,
        unchained: Unchained,
    ) {
        let note = line.note();
        let behind = note.as_ref().and_then(|note| note.head());
        // A note that the server wrote, as far as it itself can show.
        let note = note.filter(|_| behind.is_some_and(|head| self.chainer.follows(&head, line)));
        let chain = self.chains.entry(line.id.to_owned()).or_default();
        let known = chain.last;
        let starts_anew = note
            .as_ref()
            .is_some_and(|note| note.event == Happened::Opened)
            && !chain.starts.contains(&line.head.mac);
        if starts_anew {
            chain.starts.push(line.head.mac);
        }

        match &note {
            Some(note) if note.offset == offset => {
                if unchained.lines > 0 && unchained.at_start {
                    self.report.remarks.push(format!(
                        "{name}: its first {} lines are from before the chain begins and are not verified",
                        unchained.lines
                    ));
                } else if unchained.lines > 0 && note.torn + 1 == unchained.bytes {
                    self.report.remarks.push(format!(
                        "{}: a torn line, as by a kill of the server, a loss of power or a full disk while it was written",
                        unchained.place
                    ));
                } else if unchained.lines > 0 {
                    self.inserted(unchained);
                }
            }
            Some(_) => {
                self.inserted(unchained);
                if first {
                    self.find(AuditFinding::Beheaded {
                        place: place.clone(),
                    });
                }
            }
            None => self.inserted(unchained),
        }
        if let Some(note) = note.as_ref().filter(|note| note.lost > 0) {
            self.report.remarks.push(format!(
                "{place}: before this, {} lines could not be written and there was no room to keep them",
                note.lost
            ));
        }

        match known {
            Some(before) if self.chainer.follows(&before, line) => self.report.proven += 1,
            _ => {
                let note = note.as_ref().zip(behind);
                self.gap(name, line, &place, first, known, note, starts_anew);
            }
        }
        let chain = self.chains.entry(line.id.to_owned()).or_default();
        if starts_anew || chain.last.is_none_or(|last| last.seq < line.head.seq) {
            chain.last = Some(line.head);
            chain.place = place;
        }
        if self
            .anchors
            .iter()
            .any(|anchor| anchor.chain == line.id && anchor.seq == line.head.seq)
        {
            chain.at_anchor = Some(line.head.mac);
        }
    }

    /// A line that does not stand behind the one before it.
    #[expect(clippy::too_many_arguments, reason = "all that is known of one line")]
    fn gap(
        &mut self,
        name: &str,
        line: &Chained<'_>,
        place: &str,
        first: bool,
        known: Option<Head>,
        note: Option<(&Note, Head)>,
        starts_anew: bool,
    ) {
        let seq = line.head.seq;
        let Some(before) = known else {
            match note {
                Some((_, head)) => {
                    self.report.proven += 1;
                    if head.seq > 0 {
                        self.report.remarks.push(format!(
                            "{name} begins with line {seq}; lines 1 to {} are in files that were not given",
                            head.seq
                        ));
                    }
                }
                None if seq == 1 && self.chainer.follows(&Head::default(), line) => {
                    self.report.proven += 1;
                }
                None if first => self.find(AuditFinding::Beheaded {
                    place: place.to_owned(),
                }),
                None => self.find(AuditFinding::Changed {
                    seq,
                    place: place.to_owned(),
                }),
            }
            return;
        };
        let cut = note.is_some_and(|(note, _)| note.event == Happened::Cut);
        let place = place.to_owned();
        if seq > before.seq + 1 {
            if note.is_some() {
                self.report.proven += 1;
            }
            self.find(AuditFinding::Missing {
                from: before.seq + 1,
                to: seq - 1,
                place,
                at_end: false,
                cut,
            });
        } else if seq == before.seq + 1 {
            self.find(AuditFinding::Changed { seq, place });
        } else if let Some((_, head)) = note.filter(|_| starts_anew) {
            // After a kill the server found neither these lines nor a trace of them in the store.
            self.report.proven += 1;
            self.report.remarks.push(format!(
                "{place}: lines {} to {} before it were written shortly before a kill of the server, which then began anew behind line {}",
                head.seq + 1, before.seq, head.seq
            ));
        } else {
            self.find(AuditFinding::OutOfOrder { seq, place });
        }
    }

    fn inserted(&mut self, unchained: Unchained) {
        if unchained.lines > 0 {
            self.find(AuditFinding::Inserted {
                lines: unchained.lines,
                place: unchained.place,
            });
        }
    }

    fn find(&mut self, finding: AuditFinding) {
        if self.report.findings.len() < MOST_FINDINGS {
            self.report.findings.push(finding);
        } else {
            self.report.more += 1;
        }
    }

    /// Holds what was read against what the store has noted. `older`: the newest files were left out on purpose.
    #[must_use]
    pub fn finish(mut self, older: bool) -> AuditReport {
        for anchor in std::mem::take(&mut self.anchors) {
            let Some(chain) = self.chains.get(&anchor.chain) else {
                self.report.remarks.push(format!(
                    "no file of node {} was given; its log has {} lines",
                    anchor.node, anchor.seq
                ));
                continue;
            };
            let last = chain.last.map_or(0, |last| last.seq);
            if last < anchor.seq {
                if !older {
                    let place = chain.place.clone();
                    self.find(AuditFinding::Missing {
                        from: last + 1,
                        to: anchor.seq,
                        place,
                        at_end: true,
                        cut: false,
                    });
                }
                continue;
            }
            match (chain.at_anchor, mac_of_text(&anchor.mac)) {
                (Some(found), Some(noted)) if found != noted => self.find(AuditFinding::Replaced {
                    seq: anchor.seq,
                    node: anchor.node.clone(),
                }),
                _ => {}
            }
            if last > anchor.seq {
                self.report.remarks.push(format!(
                    "the last {} lines of node {} were written after its end was last noted (line {}): had some of them been removed, it would not show",
                    last - anchor.seq, anchor.node, anchor.seq
                ));
            }
        }
        self.report
    }
}
