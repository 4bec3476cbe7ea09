//! `gridkeep audit verify`: finding the files' order, reading them, compressed or not, and saying what came of it.
//!
//! Holds no rules about lines: those are the dialect's. What to verify with comes from the running server, or from the store itself
//! when no server runs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridkeep_dialect_vault::AuditVerifier;
use gridkeep_dialect_vault::audit::beginning;
use gridkeep_keeper::{AuditAnchor, AuditEvidence};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What the server tells for verifying. Whoever gets it could make lines that verify; so only operators do.
#[derive(Serialize, Deserialize)]
pub struct EvidenceAnswer {
    key: String,
    anchors: Vec<AuditAnchor>,
}

impl EvidenceAnswer {
    /// As it goes over the operators' socket.
    pub fn of(evidence: &AuditEvidence) -> Self {
        EvidenceAnswer {
            key: STANDARD.encode(*evidence.key),
            anchors: evidence.anchors.clone(),
        }
    }

    /// As it came from there.
    ///
    /// # Errors
    /// When the key is none.
    pub fn into_evidence(self) -> anyhow::Result<AuditEvidence> {
        let mut key = Zeroizing::new([0; 32]);
        let length = STANDARD
            .decode_slice(Zeroizing::new(self.key).as_bytes(), &mut *key)
            .context("the server's answer is not understood")?;
        anyhow::ensure!(length == key.len(), "the server's answer is not understood");
        Ok(AuditEvidence {
            key,
            anchors: self.anchors,
        })
    }
}

/// The configured log and, beside it, what rotation has made of it: files of its name and more after a `.` or `-`.
///
/// # Errors
/// When none is configured, or the directory cannot be read.
pub fn logs_of(configured: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let path = configured.context(
        "the configuration switches the audit log off (cluster.auditlog); name the files to verify",
    )?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
    else {
        return Ok(vec![path.to_owned()]);
    };
    let mut found = vec![path.to_owned()];
    for entry in std::fs::read_dir(directory).with_context(|| cannot_read(directory))? {
        let entry = entry.with_context(|| cannot_read(directory))?;
        let rotated = entry
            .file_name()
            .to_str()
            .and_then(|other| other.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['.', '-']));
        if rotated && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Verifies the files and tells on `out`; answers the exit code: 0 if nothing is wrong with them, 1 if something is.
///
/// # Errors
/// When a file cannot be read.
pub fn verify(
    files: &[PathBuf],
    older: bool,
    evidence: &AuditEvidence,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let mut ordered = Vec::new();
    for path in files {
        let mut text = Text::open(path)?;
        let begins = beginning(&mut text.reader).with_context(|| cannot_read(path))?;
        ordered.push((begins, path));
    }
    ordered.sort();
    let mut verifier = AuditVerifier::new(evidence);
    for (_, path) in &ordered {
        let mut text = Text::open(path)?;
        verifier
            .file(&path.display().to_string(), &mut text.reader)
            .with_context(|| cannot_read(path))?;
        text.finish(path)?;
    }
    let report = verifier.finish(older);
    for remark in &report.remarks {
        writeln!(out, "note: {remark}")?;
    }
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    if report.more > 0 {
        writeln!(out, "and {} more of the kind", report.more)?;
    }
    let wrong = report.findings.len() as u64 + report.more;
    let (files, lines) = (
        counted(files.len() as u64, "file"),
        counted(report.proven, "line"),
    );
    if wrong == 0 {
        writeln!(out, "{files}: {lines}, all there, unchanged and in order")?;
        Ok(0)
    } else {
        writeln!(
            out,
            "{files}: {lines} proven; {} listed above",
            counted(wrong, "fault")
        )?;
        write!(out, "{WHAT_FAULTS_MEAN}")?;
        Ok(1)
    }
}

const WHAT_FAULTS_MEAN: &str = "\
Lines were removed, changed or put in after the server wrote them, or some of its files were not given here.
First give all files of the log at once, rotated ones too, and --older if the newest are left out on purpose. A fault that
stays was done by somebody, a damaged disk, or a log rotation that copies and truncates: keep the files as they are, compare
them with copies from before (backups, a log collector), and find out who could write them.
";

fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn cannot_read(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}

/// A file's text, decompressed by the program that made it so where it is compressed.
struct Text {
    reader: BufReader<Box<dyn std::io::Read>>,
    program: Option<(&'static str, Child)>,
}

/// What compressed files begin with, and which program reads them.
const COMPRESSIONS: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
];

impl Text {
    fn open(path: &Path) -> anyhow::Result<Text> {
        let mut file = File::open(path).with_context(|| cannot_read(path))?;
        let mut start = Vec::new();
        (&mut file)
            .take(8)
            .read_to_end(&mut start)
            .with_context(|| cannot_read(path))?;
        std::io::Seek::rewind(&mut file).with_context(|| cannot_read(path))?;
        let Some((_, program)) = COMPRESSIONS
            .iter()
            .find(|(magic, _)| start.starts_with(magic))
        else {
            return Ok(Text {
                reader: BufReader::new(Box::new(file)),
                program: None,
            });
        };
        let mut child = Command::new(program)
            .arg("-dc")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(file)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!(
                    "{} is compressed, and the program {program} that reads it cannot be run; install it",
                    path.display()
                )
            })?;
        let output = child.stdout.take().context("a pipe is missing")?;
        Ok(Text {
            reader: BufReader::with_capacity(256 << 10, Box::new(output)),
            program: Some((program, child)),
        })
    }

    /// Hears from the program whether that was all.
    fn finish(mut self, path: &Path) -> anyhow::Result<()> {
        debug_assert!(self.reader.fill_buf().is_ok_and(<[u8]>::is_empty));
        if let Some((program, child)) = &mut self.program {
            let status = child.wait()?;
            anyhow::ensure!(
                status.success(),
                "{}: {program} says that the file is damaged; what it could read of it is in order as far as nothing is listed",
                path.display()
            );
        }
        Ok(())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if let Some((_, child)) = &mut self.program {
            // Ended already, or no longer wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_crosses_the_socket() {
        let evidence = AuditEvidence {
            key: [7; 32].into(),
            anchors: Vec::new(),
        };
        let text = serde_json::to_string(&EvidenceAnswer::of(&evidence)).unwrap();
        let answer: EvidenceAnswer = serde_json::from_str(&text).unwrap();
        assert_eq!(answer.into_evidence().unwrap().key, evidence.key);
        let short = EvidenceAnswer {
            key: STANDARD.encode([1; 16]),
            anchors: Vec::new(),
        };
        assert!(short.into_evidence().is_err());
    }

    #[test]
    fn compressed_files_are_read_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("log");
        std::fs::write(&plain, "{\"type\":\"request\"}\n".repeat(1000)).unwrap();
        assert!(Command::new("gzip").arg(&plain).status().unwrap().success());
        let packed = directory.path().join("log.gz");
        let evidence = AuditEvidence {
            key: [7; 32].into(),
            anchors: Vec::new(),
        };
        let mut out = Vec::new();
        assert_eq!(
            verify(std::slice::from_ref(&packed), false, &evidence, &mut out).unwrap(),
            0
        );
        let told = String::from_utf8(out).unwrap();
        assert!(told.contains("none of its 1000 lines is chained"), "{told}");
        let bytes = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &bytes[..bytes.len() - 5]).unwrap();
        let error = verify(&[packed], false, &evidence, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        let missing = directory.path().join("nothing");
        assert!(verify(&[missing], false, &evidence, &mut Vec::new()).is_err());
    }
}
